"""Parses SBOM files in every format that buildpacks may write: CycloneDX, SPDX and Syft, all in JSON.

Called by `contents`. Any tool may have written them, so a field that cannot be understood is left out; a file
that is no SBOM is an error. packhorse writes SBOMs in one place, `sdk.sbom`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast, get_args

from packhorse.base.dataclass import replace
from packhorse.errors import FormatError
from packhorse.sdk import licences
from packhorse.sdk.sbom import Bill, Component, Kind, Scope, is_cpe, is_hash

Fields = Mapping[str, Any]

_PURL = re.compile(r"pkg:[A-Za-z][A-Za-z0-9.+-]*/[^\s]+")
_NOTHING = ("", "NOASSERTION", "NONE")
_DEPENDS = {"DEPENDS_ON": False, "CONTAINS": False, "DEPENDENCY_OF": True}
"""Relationships of SPDX that say what needs what, and whether they say it the other way round."""


def parse(data: bytes, ending: str, where: str) -> Bill:
    """Parses the SBOM in a file that ends with `ending`. Raises FormatError that names the file `where`."""
    try:
        document = _remove_controls(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is not JSON", why=str(error)[:200]) from error
    if not isinstance(document, dict):
        raise FormatError(f"{where} is not an SBOM", why="it is not a JSON object")
    subject, parts = _PARSERS[ending](document)
    return Bill(tuple(parts), subject)


def _cyclonedx(document: Fields) -> tuple[Component | None, list[Component]]:
    about = _table(_table(document, "metadata"), "component")
    subject, found = _cyclonedx_component(about), list(_walk_components(document.get("components")))
    refs = {_text(node, "bom-ref"): part.ref for node, part in found}
    if subject:
        refs[_text(about, "bom-ref")] = subject.ref
    wanted = {
        refs[_text(entry, "ref")]: tuple(refs[key] for key in _texts(entry.get("dependsOn")) if key in refs)
        for entry in _tables(document.get("dependencies"))
        if _text(entry, "ref") in refs
    }
    parts = [replace(part, depends_on=wanted.get(part.ref, ())) for _, part in found]
    return subject and replace(subject, depends_on=wanted.get(subject.ref, ())), parts


def _walk_components(value: object) -> Iterator[tuple[Fields, Component]]:
    """The components of a list, and those within them."""
    waiting = list(_tables(value))
    while waiting:
        node = waiting.pop()
        part = _cyclonedx_component(node)
        if part:
            yield node, part
        waiting += _tables(node.get("components"))


def _cyclonedx_component(node: Fields) -> Component | None:
    group, name = _text(node, "group"), _text(node, "name")
    told = []
    for entry in _tables(node.get("licenses")):
        licence = _table(entry, "license")
        told.append(_text(entry, "expression") or _text(licence, "id") or _text(licence, "name"))
    hashes = {
        _text(entry, "alg").replace("-", "").lower(): _text(entry, "content")
        for entry in _tables(node.get("hashes"))
    }
    return _component(
        f"{group}/{name}" if group and name and not name.startswith(f"{group}/") else name,
        _text(node, "version"),
        purl=_text(node, "purl"),
        cpes=(_text(node, "cpe"),),
        told=told,
        hashes=hashes,
        kind=_text(node, "type"),
        scope=_text(node, "scope"),
    )


def _spdx(document: Fields) -> tuple[Component | None, list[Component]]:
    found = {}
    for node in _tables(document.get("packages")):
        part, identifier = _spdx_component(node), _text(node, "SPDXID")
        if part and identifier:
            found[identifier] = part
    wanted: dict[str, list[str]] = {}
    described = set(_texts(document.get("documentDescribes")))
    for relation in _tables(document.get("relationships")):
        one, other = _text(relation, "spdxElementId"), _text(relation, "relatedSpdxElement")
        kind = _text(relation, "relationshipType")
        if kind == "DESCRIBES" and one == "SPDXRef-DOCUMENT":
            described.add(other)
        elif kind in _DEPENDS and one in found and other in found:
            needing, needed = (other, one) if _DEPENDS[kind] else (one, other)
            wanted.setdefault(needing, []).append(found[needed].ref)
    parts = {key: replace(part, depends_on=tuple(wanted.get(key, ()))) for key, part in found.items()}
    subjects = [key for key in sorted(described) if key in parts]
    subject = parts.pop(subjects[0]) if len(subjects) == 1 else None
    return subject, list(parts.values())


def _spdx_component(node: Fields) -> Component | None:
    purl, cpes = "", []
    for entry in _tables(node.get("externalRefs")):
        if _text(entry, "referenceType") == "purl":
            purl = purl or _text(entry, "referenceLocator")
        elif _text(entry, "referenceType") == "cpe23Type":
            cpes.append(_text(entry, "referenceLocator"))
    declared = _text(node, "licenseDeclared")
    told = declared if declared not in _NOTHING else _text(node, "licenseComments")
    hashes = {
        _text(entry, "algorithm").lower(): _text(entry, "checksumValue")
        for entry in _tables(node.get("checksums"))
    }
    return _component(
        _text(node, "name"),
        _text(node, "versionInfo"),
        purl=purl,
        cpes=cpes,
        told=[told],
        hashes=hashes,
        kind=_text(node, "primaryPackagePurpose").lower(),
    )


def _syft(document: Fields) -> tuple[Component | None, list[Component]]:
    found = {}
    for node in _tables(document.get("artifacts")):
        told = [*_texts(node.get("licenses"))]
        told += [_text(entry, "value") for entry in _tables(node.get("licenses"))]
        cpes = [*_texts(node.get("cpes")), *(_text(entry, "cpe") for entry in _tables(node.get("cpes")))]
        part = _component(
            _text(node, "name"), _text(node, "version"), purl=_text(node, "purl"), cpes=cpes, told=told
        )
        if part:
            found[_text(node, "id") or part.ref] = part
    wanted: dict[str, list[str]] = {}
    for relation in _tables(document.get("artifactRelationships")):
        parent, child = _text(relation, "parent"), _text(relation, "child")
        # Syft's arrow points from what is needed to what needs it.
        if _text(relation, "type") == "dependency-of" and parent in found and child in found:
            wanted.setdefault(child, []).append(found[parent].ref)
    return None, [replace(part, depends_on=tuple(wanted.get(key, ()))) for key, part in found.items()]


_PARSERS: Mapping[str, Callable[[Fields], tuple[Component | None, list[Component]]]] = {
    "cdx.json": _cyclonedx,
    "spdx.json": _spdx,
    "syft.json": _syft,
}
ENDINGS = tuple(_PARSERS)
"""The endings of files that can be parsed; where a layer has several formats, the first says most."""


def _component(
    name: str,
    version: str,
    *,
    purl: str,
    cpes: Iterable[str],
    told: Iterable[str],
    hashes: Mapping[str, str] = {},
    kind: str = "",
    scope: str = "",
) -> Component | None:
    """Makes a component of the values that it may have; None without a name."""
    if not name:
        return None
    return Component(
        name,
        version,
        purl if _PURL.fullmatch(purl) else "",
        _licence(told),
        {key: digits.lower() for key, digits in sorted(hashes.items()) if is_hash(key, digits)},
        cast(Kind, kind) if kind in get_args(Kind) else "library",
        cast(Scope, scope) if scope in get_args(Scope) else "required",
        cpe=next(filter(is_cpe, sorted(cpes)), ""),
    )


def _licence(told: Iterable[str]) -> str:
    """One text for all licences, an expression where each is one."""
    texts = sorted({text for text in told if text not in _NOTHING})
    if len(texts) > 1 and all(map(licences.is_expression, texts)):
        return " AND ".join(f"({text})" if " " in text else text for text in texts)
    return ", ".join(texts)


def _remove_controls(value: Any) -> Any:
    """Removes halves of surrogate pairs and control characters, which no SBOM needs."""
    if isinstance(value, str):
        text = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return "".join(character for character in text if character.isprintable())
    if isinstance(value, dict):
        return {key: _remove_controls(item) for key, item in value.items()}
    return [_remove_controls(item) for item in value] if isinstance(value, list) else value


def _text(node: Fields, key: str) -> str:
    value = node.get(key)
    return value if isinstance(value, str) else ""


def _table(node: Fields, key: str) -> Fields:
    value = node.get(key)
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> Iterator[Fields]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, str))
