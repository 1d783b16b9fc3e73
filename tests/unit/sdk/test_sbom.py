"""Bills of materials: valid by the formats' own libraries, and the same bytes for the same components."""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from fakes.sbom import check_cyclonedx, check_spdx
from packhorse.errors import BuildError
from packhorse.sdk import licences
from packhorse.sdk.sbom import Bill, Component, purl

APP = Component(
    "app", "1.0.0", kind="application", depends_on=("pkg:npm/%40babel/core@7.1.0", "pkg:npm/gone@1")
)
BABEL = Component(
    "@babel/core",
    "7.1.0",
    purl("npm", "core", "7.1.0", namespace="@babel"),
    licence="MIT",
    hashes={"sha512": "ab" * 64},
    depends_on=("pkg:npm/a@1",),
)
SMALL = Component("a", "1", "pkg:npm/a@1", licence="(MIT OR Apache-2.0)", scope="optional")
ODD = Component("odd ☃", licence="SEE LICENSE IN x")


def check(bill: Bill, *, spdx: bool = True) -> None:
    check_cyclonedx(bill.cyclonedx())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.spdx.json")
        path.write_bytes(bill.spdx())
        if spdx:
            check_spdx(path)


@pytest.mark.system
def test_a_bill_is_valid_in_both_formats() -> None:
    check(Bill((BABEL, SMALL, ODD), APP))


@pytest.mark.system
def test_the_name_in_vulnerability_databases_is_in_both_or_refused() -> None:
    cpe = r"cpe:2.3:a:nodejs:node.js:20.1.0\+b:*:*:*:*:*:*:*"
    bill = Bill((Component("node", "20.1.0", cpe=cpe),))
    check(bill)
    assert json.dumps(cpe) in bill.cyclonedx().decode() and json.dumps(cpe) in bill.spdx().decode()
    for wrong in ("cpe:/a:nodejs:node.js", "cpe:2.3:a:b", "cpe:2.3:a:b c:d:*:*:*:*:*:*:*:*"):
        with pytest.raises(BuildError, match="the cpe of node"):
            Component("node", cpe=wrong)


def test_what_is_known_of_a_component_is_in_both() -> None:
    bill = Bill((BABEL, SMALL, ODD), APP)
    cyclonedx, spdx = json.loads(bill.cyclonedx()), json.loads(bill.spdx())
    parts = {part["name"]: part for part in cyclonedx["components"]}
    babel, small, odd = parts["@babel/core"], parts["a"], parts["odd ☃"]
    assert babel["licenses"] == [{"license": {"id": "MIT"}}]
    assert babel["hashes"] == [{"alg": "SHA-512", "content": "ab" * 64}]
    assert small["licenses"] == [{"expression": "(MIT OR Apache-2.0)"}] and small["scope"] == "optional"
    assert odd["licenses"] == [{"license": {"name": "SEE LICENSE IN x"}}]
    assert {"ref": BABEL.ref, "dependsOn": [SMALL.ref]} in cyclonedx["dependencies"]
    assert {"ref": APP.ref, "dependsOn": [BABEL.ref]} in cyclonedx["dependencies"]
    packages = {package["name"]: package for package in spdx["packages"]}
    assert packages["@babel/core"]["externalRefs"][0]["referenceLocator"] == "pkg:npm/%40babel/core@7.1.0"
    assert packages["odd ☃"]["licenseComments"] == "SEE LICENSE IN x"
    kinds = [relation["relationshipType"] for relation in spdx["relationships"]]
    assert kinds == ["DESCRIBES", "DEPENDS_ON", "DEPENDS_ON"]


def test_order_and_repetition_change_nothing() -> None:
    one = Bill((BABEL, SMALL, ODD), APP)
    again = Component("a", "1", "pkg:npm/a@1", licence="(MIT OR Apache-2.0)", scope="optional")
    other = Bill((ODD, SMALL, again, BABEL), APP)
    assert (one.cyclonedx(), one.spdx()) == (other.cyclonedx(), other.spdx())
    numbers = {json.loads(bill.cyclonedx())["serialNumber"] for bill in (one, Bill((BABEL,)))}
    assert len(numbers) == 2


def test_the_number_of_a_bill_is_made_of_all_else_that_it_says() -> None:
    document = json.loads(Bill((SMALL, ODD), APP).cyclonedx())
    number = document.pop("serialNumber")
    said = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode() + b"\n"
    name = hashlib.sha256(said).hexdigest()
    assert number == uuid.uuid5(uuid.NAMESPACE_URL, name).urn


_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
_parts = st.builds(
    Component,
    name=_names,
    version=_names | st.just(""),
    licence=_names
    | st.sampled_from(["MIT", "(MIT AND ISC)", "GPL-2.0-only WITH Classpath-exception-2.0", "X OR Y"]),
    hashes=st.sampled_from([{}, {"sha256": "00" * 32}, {"sha1": "0" * 40}]),
    kind=st.sampled_from(["library", "application", "framework", "operating-system", "file"]),
    scope=st.sampled_from(["required", "optional", "excluded"]),
)


@pytest.mark.system
@settings(max_examples=25, deadline=None)
@given(st.lists(_parts, max_size=4), st.none() | _parts)
def test_any_bill_is_valid(parts: list[Component], subject: Component | None) -> None:
    # SPDX wants at least one package.
    check(Bill(tuple(parts), subject), spdx=bool(parts or subject))


_words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)


@settings(deadline=None)
@given(_words, _words, _words)
def test_a_package_url_says_what_it_was_made_of(name: str, version: str, namespace: str) -> None:
    name, namespace = name.strip("/") or "x", namespace.replace("/", "").strip(".") or "x"
    found = PackageURL.from_string(purl("generic", name, version, namespace=f"@{namespace}"))
    assert (found.name, found.version, found.namespace) == (name, version, f"@{namespace}")


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("MIT", True),
        ("(MIT OR Apache-2.0)", True),
        ("((MIT) AND (ISC OR 0BSD))", True),
        ("Apache-2.0 WITH LLVM-exception", True),
        *(
            (text, False)
            for text in ("", "UNLICENSED", "MIT OR", "(MIT", "MIT)", "MIT ISC", "OR", "Apache 2", "MIT/X")
        ),
        ("(" * 600 + "MIT" + ")" * 600, False),
    ],
)
def test_expressions_are_told_from_other_words(text: str, known: bool) -> None:
    assert licences.is_expression(text) is known


@pytest.mark.system
def test_every_identifier_is_one_of_the_formats() -> None:
    for identifier in licences.IDS:
        part = Component("x", licence=identifier)
        check_cyclonedx(Bill((part,)).cyclonedx())
