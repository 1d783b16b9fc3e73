"""One bill of an image: what its buildpacks said, the launcher, and the base's packages."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.app_image import App
from fakes.sbom import check_cyclonedx, check_spdx
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.report.sbom import debian_versions, merge, parse, read_files, save_files
from packhorse.sdk.sbom import Bill, Component
from packhorse.testing import FakeRegistry

STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u9
Depends: libgcc-s1, libnothing | libcrypt1 (>= 1:4.4), debconf (>= 0.5) | debconf-2.0
Description: GNU C Library
 with a second line: and a colon

Package: libgcc-s1
Status: install ok installed
Architecture: amd64
Source: gcc-12 (12.2.0-14)
Version: 12.2.0-14+b1
Depends: libc6 (>= 2.35)

Package: mawk
Status: install ok installed
Version: 1.3
Architecture: amd64
Provides: debconf-2.0, awk
Pre-Depends: libc6:any

Package: gone
Status: deinstall ok config-files
Version: 1
"""
RELEASE = b'PRETTY_NAME="Debian"\nID=debian\nVERSION_ID="12"\n'
BASE = (tar_of({"var/lib/dpkg/status": STATUS, "usr/lib/os-release": RELEASE}), tar_of({"etc/motd": b"hi"}))
LIBC, GCC, MAWK = (
    "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12&upstream=glibc",
    "pkg:deb/debian/libgcc-s1@12.2.0-14%2Bb1?arch=amd64&distro=debian-12&upstream=gcc-12%4012.2.0-14",
    "pkg:deb/debian/mawk@1.3?arch=amd64&distro=debian-12",
)
EXPRESS = Component("express", "4.0.0", "pkg:npm/express@4.0.0", "MIT", {"sha256": "ab" * 32})
SHOP = Component("shop", "1.0.0", kind="application", depends_on=(EXPRESS.ref,))
SYFT: dict[str, Any] = {
    "artifacts": [
        {
            "id": "1",
            "name": "node",
            "version": "20.1.0",
            "cpes": ["cpe:2.3:a:nodejs:node.js:20.1.0:*:*:*:*:*:*:*"],
            "licenses": ["MIT", {"value": "ISC"}],
        },
        {"id": "2", "name": "openssl", "version": "3"},
        {"name": 7},
    ],
    "artifactRelationships": [{"parent": "2", "child": "1", "type": "dependency-of"}],
}
FOREIGN: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "components": [
        {
            "bom-ref": "9",
            "type": "device",
            "group": "org.acme",
            "name": "core",
            "version": "1\ud800\u0007",
            "purl": "not a purl",
            "hashes": [{"alg": "SHA-256", "content": "AB" * 32}, {"alg": "SHA-256x", "content": "x"}, 3],
            "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "own"}}, {"expression": 3}],
            "components": [{"type": "file", "name": "inner", "bom-ref": "10"}],
        },
        {"type": "library"},
        "nonsense",
    ],
    "dependencies": [{"ref": "9", "dependsOn": ["10", "gone", 5]}, {"ref": 6}],
}


def _sbom(files: dict[str, bytes]) -> bytes:
    return tar_of({f"layers/sbom/launch/{path}": data for path, data in files.items()})


SAMPLE = App(
    base=BASE,
    layers={"acme/node:node": tar_of({"layers/acme_node/node/x": b"x"})},
    sbom=_sbom(
        {
            "acme_node/sbom.cdx.json": Bill((EXPRESS,), SHOP).cyclonedx(),
            "acme_node/sbom.spdx.json": b"only one of the two is read",
            "acme_node/node/sbom.syft.json": json.dumps(SYFT).encode(),
            "acme_node/more/sbom.spdx.json": Bill((Component("left", "1"), Component("right"))).spdx(),
            "acme_node/odd/sbom.cdx.json": json.dumps(FOREIGN).encode(),
            "sbom.legacy.json": b"null\n",
        }
    ),
    build={
        "launcher": {"version": "0.21.0", "source": {"git": {"repository": "acme.test/lib", "commit": "c"}}}
    },
)


def _parts(image: Image) -> dict[str, Component]:
    found = merge(image, name="acme/app")
    return {part.ref: part for part in found.components}


@pytest.mark.system
def test_the_bill_is_valid_in_both_formats_and_the_same_each_time(tmp_path: Path) -> None:
    image = SAMPLE.image()
    found = merge(image, name="acme/app")
    check_cyclonedx(found.cyclonedx())
    (tmp_path / "x.spdx.json").write_bytes(found.spdx())
    check_spdx(tmp_path / "x.spdx.json")
    again = merge(SAMPLE.image(), name="acme/app")
    assert (again.cyclonedx(), again.spdx()) == (found.cyclonedx(), found.spdx())
    subject = json.loads(found.cyclonedx())["metadata"]["component"]
    assert (subject["type"], subject["name"], subject["version"]) == ("container", "acme/app", str(image.id))


def test_what_buildpacks_said_is_in_it_whatever_the_format() -> None:
    parts = _parts(SAMPLE.image())
    assert parts[EXPRESS.ref] == EXPRESS and parts[SHOP.ref] == SHOP
    node = parts["node@20.1.0"]
    assert node.cpe.startswith("cpe:2.3:a:nodejs:") and node.licence == "ISC AND MIT"
    assert node.depends_on == ("openssl@3",)
    assert {"left@1", "right@"} <= parts.keys()


def test_what_is_odd_in_a_foreign_bill_is_left_out() -> None:
    parts = _parts(SAMPLE.image())
    core = parts["org.acme/core@1\ufffd"]
    assert core.kind == "library" and not core.purl and core.licence == "MIT, own"
    assert core.hashes == {"sha256": "ab" * 32} and core.depends_on == ("inner@",)
    assert parts["inner@"].kind == "file"


@pytest.mark.parametrize("data", [b"{", b"[]", b"[" * 100_000, b'{"a": ' * 980 + b"1" + b"}" * 980])
def test_what_is_no_bill_is_named(data: bytes) -> None:
    image = App(sbom=_sbom({"b/sbom.cdx.json": data})).image()
    with pytest.raises(FormatError, match=r"/layers/sbom/launch/b/sbom\.cdx\.json is no"):
        merge(image, name="x")


def test_packages_of_the_base_depend_on_one_another_and_the_distribution_on_all() -> None:
    parts = _parts(SAMPLE.image())
    assert set(parts["debian@12"].depends_on) == {LIBC, GCC, MAWK}
    assert parts[LIBC].depends_on == (GCC, MAWK)
    assert parts[MAWK].depends_on == (LIBC,)
    assert not any("gone" in ref for ref in parts)


def test_the_image_depends_on_what_nothing_else_needs() -> None:
    subject = merge(SAMPLE.image(), name="x").subject
    assert subject is not None
    launcher = "pkg:generic/launcher@0.21.0?vcs_url=git%2Bhttps://acme.test/lib%40c"
    expected = {SHOP.ref, "node@20.1.0", "left@1", "right@", "org.acme/core@1\ufffd", "debian@12", launcher}
    assert set(subject.depends_on) == expected


def test_a_launcher_with_a_bill_of_its_own_is_not_listed_twice() -> None:
    own = _sbom({"buildpacksio_lifecycle/launcher/sbom.cdx.json": Bill((Component("go", "1"),)).cyclonedx()})
    assert set(_parts(App(sbom=own).image())) == {"debian@", "go@1"}


def test_bases_without_dpkg_have_a_file_for_each_package() -> None:
    base = (
        tar_of(
            {
                "var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 12\nArchitecture: amd64\n",
                "var/lib/dpkg/status.d/base.md5sums": b"Package: x\nVersion: y\n",
                "usr/lib/os-release": RELEASE,
            }
        ),
        tar_of({"var/lib/dpkg/status.d/tzdata": b"Package: tzdata\nVersion: 2025a\nArchitecture: all\n"}),
        tar_of({"var/lib/dpkg/status.d/base": b"Package: base-files\nVersion: 13\nArchitecture: amd64\n"}),
    )
    assert {part.name: part.version for part in _parts(App(base=base).image()).values()} == {
        "debian": "12",
        "base-files": "13",
        "tzdata": "2025a",
        "launcher": "0.21.0",
    }


@pytest.mark.parametrize("hidden", ["var/lib/dpkg/.wh.status", "var/.wh.lib", "var/lib/dpkg/.wh..wh..opq"])
def test_packages_that_a_layer_hides_are_not_there(hidden: str) -> None:
    parts = _parts(App(base=(*BASE, tar_of({hidden: b""}))).image())
    assert not any(ref.startswith("pkg:deb") for ref in parts)


def test_labels_say_the_distribution_of_a_base_that_has_derived_from_another() -> None:
    labels = {"io.buildpacks.base.distro.name": "ubuntu", "io.buildpacks.base.distro.version": "24.04"}
    parts = _parts(App(base=BASE, labels=labels).image())
    assert "ubuntu@24.04" in parts and any("distro=ubuntu-24.04" in ref for ref in parts)


def test_an_image_of_another_origin_has_its_packages() -> None:
    assert set(_parts(stored_image(*BASE))) == {"debian@12", LIBC, GCC, MAWK}
    assert _parts(stored_image(tar_of({"x": b""}))) == {}


def test_only_the_layers_that_say_something_are_read(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        top = tar_of({"var/lib/dpkg/status": STATUS, "usr/lib/os-release": RELEASE})
        image = App(base=(tar_of({"big": b"x" * 9999}), top), sbom=SAMPLE.sbom).image()
        place = wiring.registry(Reference.parse(f"{registry.host}/acme/app"), Target.host())
        push_image(image, place)
        read = place.read()
        del registry.requests[:]
        assert merge(read, name="x").cyclonedx() == merge(image, name="x").cyclonedx()
        wanted = [layer.descriptor for layer in (image.layers[2], image.layers[1])]
        assert [seen.path.rpartition("/")[2] for seen in registry.requests] == [
            str(descriptor.digest) for descriptor in wanted if descriptor
        ]


def test_the_files_are_those_of_the_layer(tmp_path: Path) -> None:
    found = read_files(SAMPLE.image())
    save_files(found, tmp_path / "new" / "place")
    written = {
        str(path.relative_to(tmp_path / "new/place")) for path in tmp_path.rglob("*") if path.is_file()
    }
    assert written == set(found) and "layers/sbom/launch/sbom.legacy.json" in written
    with pytest.raises(NotFoundError, match="no SBOM files"):
        read_files(App().image())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        save_files(found, tmp_path / "file")


_KEYS = (
    *("components", "name", "version", "purl", "cpe", "licenses", "license", "id", "expression", "hashes"),
    *("alg", "content", "type", "scope", "bom-ref", "dependencies", "ref", "dependsOn", "metadata"),
    *("component", "packages", "SPDXID", "versionInfo", "externalRefs", "referenceType", "referenceLocator"),
    *("relationships", "spdxElementId", "relatedSpdxElement", "relationshipType", "licenseDeclared"),
    *("checksums", "algorithm", "checksumValue", "artifacts", "artifactRelationships", "parent", "child"),
)
_WORDS = (
    *("a", "b", "", "pkg:npm/a@1", "pkg:x", "cpe:2.3:a:v:p:1:*:*:*:*:*:*:*", "MIT", "MIT OR Apache-2.0"),
    *("SHA-256", "sha1", "ab" * 32, "library", "container", "required", "purl", "cpe23Type", "DESCRIBES"),
    *("DEPENDS_ON", "SPDXRef-DOCUMENT", "dependency-of", "\ud800", "\x00\n", "x" * 600),
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.sampled_from(_WORDS), st.none(), st.integers()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6)
    ),
    max_leaves=12,
)
_LISTS = (
    *("components", "dependencies", "packages", "relationships"),
    *("artifacts", "artifactRelationships", "documentDescribes"),
)
_NODES = st.lists(st.dictionaries(st.sampled_from(_KEYS), _VALUES, min_size=4, max_size=12), max_size=4)


@pytest.mark.system
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.fixed_dictionaries(dict.fromkeys(_LISTS, _NODES)),
    st.sampled_from(["cdx.json", "spdx.json", "syft.json"]),
)
def test_whatever_a_foreign_bill_says_ours_is_valid(document: dict[str, Any], ending: str) -> None:
    for number, node in enumerate(document["components"] + document["packages"] + document["artifacts"]):
        node.setdefault("name", "named")
        node.setdefault("SPDXID", str(number))
    found = parse(json.dumps(document).encode(), ending, "x")
    check_cyclonedx(found.cyclonedx())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.spdx.json")
        path.write_bytes(Bill(found.components, found.subject or Component("x")).spdx())
        check_spdx(path)


STANZAS = """Package: zlib1g
Status: install ok installed
Description: compression
 Package: not-a-field
Version: 1:1.2.13

Package: gone
Status: deinstall ok config-files
Version: 1

Package: base-files
Status: install ok installed
Version: 12.4+deb12u15
"""


def test_a_dpkg_status_file_tells_the_installed_packages() -> None:
    packages = debian_versions([STANZAS])
    assert packages == {"base-files": "12.4+deb12u15", "zlib1g": "1:1.2.13"}
    assert list(packages) == sorted(packages)
