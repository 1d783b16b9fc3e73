"""Writes SBOMs: the components of a layer or an application, in the formats that scanners read.

A buildpack makes a `Bill`, and `sdk.context` writes it (buildpack.md "Software-Bill-of-Materials"). The same
components give the same bytes: there are no times, and unique numbers are derived from the content.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args
from urllib.parse import quote

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.errors import BuildError
from packhorse.sdk import arguments, licences

Kind = Literal["library", "application", "framework", "container", "operating-system", "file"]
Scope = Literal["required", "optional", "excluded"]

_ALGORITHMS = {"sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}
_DIGITS = {"sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile("[0-9a-fA-F]+")
_CPE = re.compile(r"cpe:2\.3:[aho*-](?::(?:\\[\x21-\x7e]|[A-Za-z0-9._*?~-])+){10}")
_ADDRESSES = bytes.fromhex("6ba7b8119dad11d180b400c04fd430c8")
_TIME = "1980-01-01T00:00:01Z"
"""SPDX demands a time; this is the time of all files in layers."""


@dataclass(frozen=True, slots=True)
class Component:
    """One component. `hashes` maps sha1, sha256, sha384 and sha512 to hexadecimal digits.

    `cpe` is its name in vulnerability databases (CPE 2.3).

    `depends_on` has the `ref` of other components; those that the bill does not have are left out.
    """

    name: str
    version: str = ""
    purl: str = ""
    licence: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    kind: Kind = "library"
    scope: Scope = "required"
    depends_on: tuple[str, ...] = ()
    cpe: str = ""

    def __post_init__(self) -> None:
        arguments.check_text("the name of a component", self.name, empty=False)
        for part in ("version", "purl", "licence", "cpe"):
            arguments.check_text(f"the {part} of {self.name}", getattr(self, part))
        arguments.check_table(f"the hashes of {self.name}", self.hashes)
        for algorithm, digits in self.hashes.items():
            arguments.check_choice(f"an algorithm in the hashes of {self.name}", algorithm, _DIGITS)
            if not is_hash(algorithm, digits):
                raise BuildError(
                    f"the {algorithm} of {self.name} cannot be {arguments.describe(digits)}",
                    fix=f"it has {_DIGITS[algorithm]} hexadecimal digits",
                )
        if self.cpe and not is_cpe(self.cpe):
            raise BuildError(
                f"the cpe of {self.name} cannot be {arguments.describe(self.cpe)}",
                fix="write cpe:2.3:a:VENDOR:PRODUCT:VERSION:*:*:*:*:*:*:*",
            )
        arguments.check_choice(f"the kind of {self.name}", self.kind, get_args(Kind))
        arguments.check_choice(f"the scope of {self.name}", self.scope, get_args(Scope))
        arguments.check_texts(f"depends_on of {self.name}", self.depends_on)

    @property
    def ref(self) -> str:
        """The component's identifier in an SBOM: its package URL, or its name and version."""
        return self.purl or f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Bill:
    """Components in any order. Of several with one `ref` only the first counts, with all dependencies."""

    components: tuple[Component, ...]
    subject: Component | None = None

    def __post_init__(self) -> None:
        arguments.check_all("the components of a bill", self.components, Component)
        if self.subject is not None:
            arguments.check_type("the subject of a bill", self.subject, Component)

    def cyclonedx(self) -> bytes:
        """The bill as CycloneDX 1.5 in JSON."""
        parts = self._merged()
        known = {part.ref for part in parts} | ({self.subject.ref} if self.subject else set())
        document: dict[str, Any] = {
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": _cyclonedx(self.subject)} if self.subject else {},
            "components": [_cyclonedx(part) for part in parts],
            "dependencies": [
                _present(ref=part.ref, dependsOn=_known(part.depends_on, known))
                for part in (*([self.subject] if self.subject else []), *parts)
            ],
        }
        document = {key: value for key, value in document.items() if value not in ({}, [])}
        document["serialNumber"] = f"urn:uuid:{_unique(document)}"
        return _json(document)

    def spdx(self) -> bytes:
        """The bill as SPDX 2.3 in JSON."""
        parts = [*([self.subject] if self.subject else []), *self._merged()]
        ids = {part.ref: _spdx_id(part) for part in parts}
        roots = [self.subject] if self.subject else parts
        relations = [("SPDXRef-DOCUMENT", "DESCRIBES", ids[part.ref]) for part in roots]
        for part in parts:
            relations += [(ids[part.ref], "DEPENDS_ON", ids[ref]) for ref in _known(part.depends_on, ids)]
        document: dict[str, Any] = {
            "spdxVersion": "SPDX-2.3",
            "dataLicense": "CC0-1.0",
            "SPDXID": "SPDXRef-DOCUMENT",
            "name": self.subject.name if self.subject else "bill-of-materials",
            "creationInfo": {"created": _TIME, "creators": ["Tool: packhorse"]},
            "packages": [_spdx(part, ids[part.ref]) for part in parts],
            "relationships": [
                {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
                for one, kind, other in relations
            ],
        }
        document["documentNamespace"] = f"urn:uuid:{_unique(document)}"
        return _json(document)

    def _merged(self) -> list[Component]:
        found: dict[str, Component] = {}
        wanted: dict[str, set[str]] = {}
        for part in self.components:
            found.setdefault(part.ref, part)
            wanted.setdefault(part.ref, set()).update(part.depends_on)
        if self.subject:
            found.pop(self.subject.ref, None)
        return [_depending(found[ref], sorted(wanted[ref])) for ref in sorted(found)]


FORMATS: Mapping[str, tuple[str, Callable[[Bill], bytes]]] = {
    "application/vnd.cyclonedx+json": ("cdx.json", Bill.cyclonedx),
    "application/spdx+json": ("spdx.json", Bill.spdx),
}
"""The media types of `sbom-formats`, each with its file name extension and its writer."""


def purl(type: str, name: str, version: str = "", *, namespace: str = "", **qualifiers: str) -> str:
    """A package URL: `purl("npm", "core", "7.1.0", namespace="@babel")` is `pkg:npm/%40babel/core@7.1.0`."""
    path = "/".join(quote(part, safe="-._~:") for part in (*namespace.split("/"), name) if part)
    at = f"@{quote(version, safe='-._~:')}" if version else ""
    pairs = "&".join(f"{key}={quote(value, safe='-._~:/')}" for key, value in sorted(qualifiers.items()))
    return f"pkg:{type}/{path}{at}{f'?{pairs}' if pairs else ''}"


def is_hash(algorithm: str, digits: str) -> bool:
    """Whether `digits` is a hash of one of the algorithms that a component's hashes may have."""
    return len(digits) == _DIGITS.get(algorithm) and _HEX.fullmatch(digits) is not None


def is_cpe(text: str) -> bool:
    """Whether `text` is a CPE 2.3 name in its form for files."""
    return _CPE.fullmatch(text) is not None


def _depending(part: Component, refs: Iterable[str]) -> Component:
    return replace(part, depends_on=tuple(refs))


def _cyclonedx(part: Component) -> dict[str, Any]:
    return _present(
        type=part.kind,
        name=part.name,
        version=part.version,
        purl=part.purl,
        cpe=part.cpe,
        scope=part.scope,
        licenses=_licences(part.licence),
        hashes=[
            {"alg": _ALGORITHMS[name], "content": digits}
            for name, digits in sorted(part.hashes.items())
            if name in _ALGORITHMS
        ],
        **{"bom-ref": part.ref},
    )


def _licences(text: str) -> list[dict[str, Any]]:
    if not text:
        return []
    if text in licences.IDS:
        return [{"license": {"id": text}}]
    return [{"expression": text}] if licences.is_expression(text) else [{"license": {"name": text}}]


def _spdx(part: Component, identifier: str) -> dict[str, Any]:
    expression = part.licence if licences.is_expression(part.licence) else ""
    return _present(
        SPDXID=identifier,
        name=part.name,
        versionInfo=part.version,
        downloadLocation="NOASSERTION",
        primaryPackagePurpose=part.kind.upper(),
        licenseConcluded="NOASSERTION",
        licenseDeclared=expression or "NOASSERTION",
        licenseComments="" if expression else part.licence,
        copyrightText="NOASSERTION",
        checksums=[
            {"algorithm": name.upper(), "checksumValue": digits}
            for name, digits in sorted(part.hashes.items())
            if name in _ALGORITHMS
        ],
        externalRefs=[
            {"referenceCategory": category, "referenceType": kind, "referenceLocator": text}
            for category, kind, text in (
                ("PACKAGE-MANAGER", "purl", part.purl),
                ("SECURITY", "cpe23Type", part.cpe),
            )
            if text
        ],
    ) | {"filesAnalyzed": False}


def _spdx_id(part: Component) -> str:
    """Returns an ID of letters, digits, dots, dashes and a part of a digest, which makes it unique."""
    plain = (letter if letter.isascii() and letter.isalnum() else "-" for letter in part.name[:50])
    return f"SPDXRef-{''.join(plain)}-{hashlib.sha256(part.ref.encode()).hexdigest()[:12]}"


def _known(refs: Iterable[str], known: Iterable[str]) -> list[str]:
    there = set(known)
    return [ref for ref in sorted(set(refs)) if ref in there]


def _present(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value}


def _unique(document: Mapping[str, Any]) -> str:
    return _uuid(hashlib.sha256(_json(document)).hexdigest())


def _uuid(name: str) -> str:
    """Makes a UUID of version 5 for a URL (RFC 9562) without the module `uuid`, which is slow to import."""
    made = bytearray(hashlib.sha1(_ADDRESSES + name.encode(), usedforsecurity=False).digest()[:16])
    made[6] = made[6] & 0x0F | 0x50
    made[8] = made[8] & 0x3F | 0x80
    digits = made.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _json(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.encode() + b"\n"
