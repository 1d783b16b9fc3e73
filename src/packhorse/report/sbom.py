"""Makes one SBOM of an image, or reads the SBOM files of its buildpacks.

`cli.sbom` and `report.diff` call this, and `builder.default` lists the packages of its images. Of the base's
layers it reads only the top ones, down to dpkg's records. For an image that buildpacks made, it also reads
the layer of SBOM files.

A base made with dpkg has one status file. A base made without dpkg (distroless) has a file for each package,
in the package's layer. SBOM files may be CycloneDX, SPDX or Syft, in JSON. Any tool may have written them, so
a field that cannot be understood is left out; a file that is no SBOM is an error. `sdk.sbom` writes the SBOM.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast, get_args

from packhorse.base import files
from packhorse.base.dataclass import dataclass, field, replace
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.host.distribution import os_release_fields
from packhorse.lifecycle import labels
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import JsonNode
from packhorse.report.owners import LayerPart, OwnedLayer, owned_layers
from packhorse.sdk import licences
from packhorse.sdk.sbom import Bill, Component, Kind, Scope, is_cpe, is_hash, purl
from packhorse.tar.listing import pick_files

_STATUS = "var/lib/dpkg/status"
_SINGLE = "var/lib/dpkg/status.d/"
_RELEASES = ("etc/os-release", "usr/lib/os-release")
_STATUS_LIMIT = 64 << 20  # bytes; about as much as all packages of Debian need
_ALTERNATIVES = re.compile(r"\s*,\s*")
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_SOURCE = re.compile(r"(\S+)(?: \((\S+)\))?")
Fields = Mapping[str, Any]
_PURL = re.compile(r"pkg:[A-Za-z][A-Za-z0-9.+-]*/[^\s]+")
_NOTHING = ("", "NOASSERTION", "NONE")

_DEPENDS = {"DEPENDS_ON": False, "CONTAINS": False, "DEPENDENCY_OF": True}
"""SPDX relationships that are dependencies, and whether the second element needs the first."""

_FILES_LIMIT = 256 << 20
_FOLDER = "layers/sbom/launch/"
_LAUNCHER = f"{_FOLDER}buildpacksio_lifecycle/launcher/"


@dataclass(frozen=True, slots=True)
class BaseSystem:
    """The content of a base's os-release (`release`) and of dpkg's files (`statuses`)."""

    release: str = ""
    statuses: tuple[str, ...] = ()


@dataclass(slots=True)
class _Search:
    """The files found in the layers so far, read from the top, and the paths that these layers hide."""

    files: dict[str, bytes] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)

    def covers(self, path: str) -> bool:
        if path in self.files or path in self.hidden:
            return True
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(len(parts))]
        return any(f"{name}/" in self.hidden or (name and name in self.hidden) for name in above)

    def add_layer(self, layer: Layer) -> None:
        found = pick_files(layer.tar(), _is_wanted, limit=_STATUS_LIMIT)
        self.files |= {path: data for path, data in found.files.items() if not self.covers(path)}
        self.hidden |= found.hidden


def read_base(layers: Iterable[Layer], *, release: bool = True) -> BaseSystem:
    """Reads the files of a base from its layers, which are lowest first.

    It reads layers from the top until it has dpkg's status file, and os-release too if `release` is true.
    Raises FormatError, and what reading a layer raises.
    """
    search = _Search()
    for layer in reversed(tuple(layers)):
        search.add_layer(layer)
        if search.covers(_STATUS) and (not release or any(map(search.covers, _RELEASES))):
            break
    os_release = next((search.files[path] for path in reversed(_RELEASES) if path in search.files), b"")
    statuses = [search.files[path] for path in sorted(search.files) if path not in _RELEASES]
    return BaseSystem(_decode(os_release), tuple(map(_decode, statuses)))


def base_components(base: BaseSystem, *, distro: tuple[str, str] = ("", "")) -> list[Component]:
    """Returns the distribution, which depends on all its packages, then the packages; or an empty list.

    `distro` is its name and version by the image's labels. Without a name there, os-release counts.
    """
    release = os_release_fields(base.release)
    name, version = distro if distro[0] else (release.get("ID", "").lower(), release.get("VERSION_ID", ""))
    packages = [package for status in base.statuses for package in _stanzas(status)]
    packages = [package for package in packages if _is_installed(package)]
    if not name and not packages:
        return []
    name = name or "debian"
    components = _packages(packages, name, version)
    refs = tuple(component.ref for component in components)
    return [Component(name, version, kind="operating-system", depends_on=refs), *components]


def debian_versions(statuses: Iterable[str]) -> dict[str, str]:
    """Returns the version of each installed package, by name; by `name:architecture` if it has several."""
    found: dict[str, dict[str, str]] = {}
    for package in (package for status in statuses for package in _stanzas(status)):
        if _is_installed(package):
            found.setdefault(package["Package"], {})[package.get("Architecture", "")] = package["Version"]
    named = {
        f"{name}:{architecture}" if len(each) > 1 else name: version
        for name, each in found.items()
        for architecture, version in each.items()
    }
    return dict(sorted(named.items()))


def is_status(path: str) -> bool:
    """Whether a path, relative to the root, is a file in which dpkg records packages."""
    return _is_wanted(path) and path not in _RELEASES


def _packages(packages: list[dict[str, str]], distro: str, version: str) -> list[Component]:
    refs: dict[str, str] = {}  # by the name of a package, or by a name that a package provides
    for package in packages:
        refs.setdefault(package["Package"], _purl(package, distro, version))
    for package in packages:
        for group in _relations(package.get("Provides", "")):
            refs.setdefault(group[0], _purl(package, distro, version))
    components = []
    for package in packages:
        wanted = f"{package.get('Pre-Depends', '')},{package.get('Depends', '')}"
        needs = {next((refs[name] for name in group if name in refs), "") for group in _relations(wanted)} - {
            "",
            _purl(package, distro, version),
        }
        components.append(
            Component(
                package["Package"],
                package["Version"],
                _purl(package, distro, version),
                depends_on=tuple(sorted(needs)),
            )
        )
    return sorted(components, key=lambda part: part.ref)


def _purl(package: Mapping[str, str], distro: str, version: str) -> str:
    """Returns a package's purl. It has the source package, because Debian's security tracker uses these."""
    qualifiers = {"distro": f"{distro}-{version}"} if version else {}
    if package.get("Architecture"):
        qualifiers["arch"] = package["Architecture"]
    source = _SOURCE.fullmatch(package.get("Source", ""))
    if source:
        qualifiers["upstream"] = f"{source[1]}@{source[2]}" if source[2] else source[1]
    return purl("deb", package["Package"], package["Version"], namespace=distro, **qualifiers)


def _relations(text: str) -> Iterator[list[str]]:
    """Yields the names in each group of alternatives: `a (>= 1) | b:any, c` has two groups."""
    for group in _ALTERNATIVES.split(text.strip()):
        found = [_NAME.match(alternative.strip()) for alternative in group.split("|")]
        names = [match[0] for match in found if match]
        if names:
            yield names


def _is_wanted(path: str) -> bool:
    if path.startswith(_SINGLE):
        name = path.removeprefix(_SINGLE)
        return "/" not in name and not name.endswith(".md5sums")
    return path == _STATUS or path in _RELEASES


def _is_installed(package: Mapping[str, str]) -> bool:
    """Whether a package is installed: a record without a status is, a removed package is not."""
    status = package.get("Status", "install ok installed").split()
    return bool(package.get("Package") and package.get("Version")) and status[-1:] == ["installed"]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yields the paragraphs of Debian's control files, with the first line of each field."""
    fields: dict[str, str] = {}
    for line in (*text.split("\n"), ""):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
        elif not line[0].isspace():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name, value.strip())


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")


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
    """Yields the components of a list, and their nested components."""
    waiting = list(_tables(value))
    while waiting:
        node = waiting.pop()
        part = _cyclonedx_component(node)
        if part:
            yield node, part
        waiting += _tables(node.get("components"))


def _cyclonedx_component(node: Fields) -> Component | None:
    group, name = _text(node, "group"), _text(node, "name")
    terms = []
    for entry in _tables(node.get("licenses")):
        licence = _table(entry, "license")
        terms.append(_text(entry, "expression") or _text(licence, "id") or _text(licence, "name"))
    hashes = {
        _text(entry, "alg").replace("-", "").lower(): _text(entry, "content")
        for entry in _tables(node.get("hashes"))
    }
    return _component(
        f"{group}/{name}" if group and name and not name.startswith(f"{group}/") else name,
        _text(node, "version"),
        purl=_text(node, "purl"),
        cpes=(_text(node, "cpe"),),
        licence_texts=terms,
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
    terms = declared if declared not in _NOTHING else _text(node, "licenseComments")
    hashes = {
        _text(entry, "algorithm").lower(): _text(entry, "checksumValue")
        for entry in _tables(node.get("checksums"))
    }
    return _component(
        _text(node, "name"),
        _text(node, "versionInfo"),
        purl=purl,
        cpes=cpes,
        licence_texts=[terms],
        hashes=hashes,
        kind=_text(node, "primaryPackagePurpose").lower(),
    )


def _syft(document: Fields) -> tuple[Component | None, list[Component]]:
    found = {}
    for node in _tables(document.get("artifacts")):
        terms = [*_texts(node.get("licenses"))]
        terms += [_text(entry, "value") for entry in _tables(node.get("licenses"))]
        cpes = [*_texts(node.get("cpes")), *(_text(entry, "cpe") for entry in _tables(node.get("cpes")))]
        part = _component(
            _text(node, "name"),
            _text(node, "version"),
            purl=_text(node, "purl"),
            cpes=cpes,
            licence_texts=terms,
        )
        if part:
            found[_text(node, "id") or part.ref] = part
    wanted: dict[str, list[str]] = {}
    for relation in _tables(document.get("artifactRelationships")):
        parent, child = _text(relation, "parent"), _text(relation, "child")
        # In Syft, the parent is the dependency of the child.
        if _text(relation, "type") == "dependency-of" and parent in found and child in found:
            wanted.setdefault(child, []).append(found[parent].ref)
    return None, [replace(part, depends_on=tuple(wanted.get(key, ()))) for key, part in found.items()]


_PARSERS: Mapping[str, Callable[[Fields], tuple[Component | None, list[Component]]]] = {
    "cdx.json": _cyclonedx,
    "spdx.json": _spdx,
    "syft.json": _syft,
}
ENDINGS = tuple(_PARSERS)
"""The endings of files that can be parsed. If a layer has several formats, the first has the most data."""


def _component(
    name: str,
    version: str,
    *,
    purl: str,
    cpes: Iterable[str],
    licence_texts: Iterable[str],
    hashes: Mapping[str, str] = {},
    kind: str = "",
    scope: str = "",
) -> Component | None:
    """Makes a component, without invalid values; None if it has no name."""
    if not name:
        return None
    return Component(
        name,
        version,
        purl if _PURL.fullmatch(purl) else "",
        _licence(licence_texts),
        {key: digits.lower() for key, digits in sorted(hashes.items()) if is_hash(key, digits)},
        cast(Kind, kind) if kind in get_args(Kind) else "library",
        cast(Scope, scope) if scope in get_args(Scope) else "required",
        cpe=next(filter(is_cpe, sorted(cpes)), ""),
    )


def _licence(texts: Iterable[str]) -> str:
    """Joins licences to one text, to an SPDX expression if each is one."""
    texts = sorted({text for text in texts if text not in _NOTHING})
    if len(texts) > 1 and all(map(licences.is_expression, texts)):
        return " AND ".join(f"({text})" if " " in text else text for text in texts)
    return ", ".join(texts)


def _remove_controls(value: Any) -> Any:
    """Replaces halves of surrogate pairs, and removes unprintable characters, at any depth."""
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


def read_files(image: Image) -> dict[str, bytes]:
    """Reads the files of the image's SBOM layer, by their paths. Raises NotFoundError if there is none."""
    sbom = [owned.layer for owned in _owned_layers(image) if owned.part is LayerPart.SBOM]
    if not sbom:
        raise NotFoundError(
            "the image has no SBOM files",
            why="the image does not say which of its layers has the buildpacks' SBOMs",
            fix="packhorse sbom IMAGE lists what is known without them",
        )
    return pick_files(sbom[0].tar(), lambda path: path.startswith("layers/sbom/"), limit=_FILES_LIMIT).files


def save_files(found: Mapping[str, bytes], directory: Path) -> None:
    """Writes files below a directory, each under its path in the image. Raises InputError."""
    for path, data in sorted(found.items()):
        target = directory / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{target.parent} cannot be made", why=error.strerror or str(error)) from error
        files.write(target, data)


def merge(image: Image, *, name: str) -> Bill:
    """Makes one SBOM of everything in the image. Its subject is the image, by `name` and ID.

    The same image has the same SBOM, wherever it is read from. Raises FormatError, and what reading a layer
    raises.
    """
    owned = _owned_layers(image)
    found = _read_launch_files(owned)
    bills = [parse(data, _ending(path), f"/{path}") for path, data in found.items()]
    if not any(path.startswith(_LAUNCHER) for path in found):
        bills.append(Bill(tuple(_launcher(image, owned))))
    distro = tuple(image.config.labels.get(key, "") for key in (labels.DISTRO_NAME, labels.DISTRO_VERSION))
    below = [one.layer for one in owned if one.part in (LayerPart.BASE, LayerPart.OTHER)]
    base = read_base(below, release=not distro[0])
    bills.append(Bill(tuple(base_components(base, distro=(distro[0], distro[1])))))
    parts = [part for bill in bills for part in ((bill.subject,) if bill.subject else ()) + bill.components]
    roots = {part.ref for bill in bills for part in _roots(bill)}
    subject = Component(name, str(image.id), kind="container", depends_on=tuple(sorted(roots)))
    return Bill(tuple(part for part in parts if part.ref != subject.ref), subject)


def _owned_layers(image: Image) -> tuple[OwnedLayer, ...]:
    return owned_layers(image, labels.LayersMetadata.parse(image.config.labels.get(labels.LIFECYCLE, "")))


def is_sbom(path: str) -> bool:
    """Whether a path, relative to the root, is an SBOM file of a buildpack for the final image."""
    return path.startswith(_FOLDER) and bool(_ending(path))


def versions(found: Mapping[str, bytes]) -> dict[str, str]:
    """Returns the versions of each component by name, joined by commas. `found` has SBOM files by path.

    It ignores a file that is no SBOM; `packhorse diff` still shows that this file differs.
    """
    known: dict[str, set[str]] = {}
    for path, data in _choose(found).items():
        with suppress(FormatError):
            for part in parse(data, _ending(path), f"/{path}").components:
                known.setdefault(part.name, set()).update([part.version] if part.version else [])
    return {name: ", ".join(sorted(several)) for name, several in known.items() if several}


def _read_launch_files(owned: Sequence[OwnedLayer]) -> dict[str, bytes]:
    """Reads the buildpacks' SBOM files for the final image, one for each layer."""
    found: dict[str, bytes] = {}
    for one in owned:
        if one.part is LayerPart.SBOM:
            found = pick_files(
                one.layer.tar(), lambda path: path.startswith(_FOLDER), limit=_FILES_LIMIT
            ).files
    return _choose(found)


def _choose(found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Keeps one SBOM file of each directory, in the format with the most data."""
    chosen: dict[str, str] = {}
    for path in sorted(filter(_ending, found), key=_preference):
        chosen.setdefault(posixpath.dirname(path), path)
    return {path: found[path] for path in sorted(chosen.values())}


def _preference(path: str) -> tuple[int, str]:
    return ENDINGS.index(_ending(path)), path


def _ending(path: str) -> str:
    name = posixpath.basename(path)
    return next((ending for ending in ENDINGS if name.endswith(f".{ending}")), "")


def _launcher(image: Image, owned: Sequence[OwnedLayer]) -> list[Component]:
    """Returns the launcher as the label describes it, or an empty list if the image has none."""
    build = JsonNode.parse((image.config.labels.get(labels.BUILD) or "{}").encode(), labels.BUILD)
    launcher = build.node("launcher")
    if launcher is None or not any(one.part is LayerPart.LAUNCHER for one in owned):
        return []
    source = launcher.node("source")
    git = source.node("git") if source else None
    repository, commit = (git.text("repository"), git.text("commit")) if git else ("", "")
    version = launcher.text("version")
    where = {"vcs_url": f"git+https://{repository}@{commit}"} if repository and commit else {}
    return [Component("launcher", version, purl("generic", "launcher", version, **where), kind="application")]


def _roots(bill: Bill) -> list[Component]:
    """Returns the subject of an SBOM, or if it has none, the components that no other component needs."""
    if bill.subject:
        return [bill.subject]
    needed = {ref for part in bill.components for ref in part.depends_on if ref != part.ref}
    return [part for part in bill.components if part.ref not in needed] or list(bill.components)
