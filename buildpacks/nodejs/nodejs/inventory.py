"""What modules an application has, as the components of its bill of materials.

On the arrow plan → layers. Called by `nodejs.bill`. The installed tree says what there is, whoever installed
it; the lock adds checksums. Of a package that is there several times in one version there is one entry.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass, replace

from . import locks, plugnplay
from .project import DEPENDENCIES
from .workspace import Workspace

_MODULES = "node_modules"
_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A directory with a manifest; `place` is where Node.js finds it, all links resolved."""

    place: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name in the manifest, else that of its directory."""
        name = self.manifest.get("name")
        return name if isinstance(name, str) and name else self.place.name

    @property
    def version(self) -> str:
        """The version in the manifest; empty without one."""
        version = self.manifest.get("version")
        return version if isinstance(version, str) else ""

    @property
    def licence(self) -> str:
        """The licence as the manifest has it, in one of the three ways that there are."""
        found = self.manifest.get("license") or self.manifest.get("licenses")
        listed = found if isinstance(found, list) else [found]
        names = [entry.get("type") if isinstance(entry, dict) else entry for entry in listed]
        texts = [name for name in names if isinstance(name, str) and name]
        return texts[0] if len(texts) == 1 else f"({' OR '.join(texts)})" if texts else ""

    def needs(self) -> set[str]:
        """The names of all that it declares to need at run time."""
        tables = (self.manifest.get(part) for part in DEPENDENCIES)
        return {name for table in tables if isinstance(table, dict) for name in table}


def of_tree(workspace: Workspace, *, within: tuple[Path, ...], plugged: Path, lock: str) -> sdk.Bill:
    """The bill of the application and all modules that it can load; what is not `within` is left out.

    `plugged` is where the packages of Plug'n'Play are, if any; `lock` is the name of the lock that holds.
    """
    roots = tuple(Path(os.path.realpath(path)) for path in within)
    starts = [workspace.app.directory, workspace.root.directory]
    members = workspace.needed(dev=False) if workspace.is_member else workspace.members
    starts += [workspace.root.directory / path for path in members]
    found: dict[Path, Package] = {}
    for start in map(_real, dict.fromkeys(starts)):
        found[start] = Package(start, _manifest(start / "package.json"))
    unplugged = sorted(plugged.glob(f"{plugnplay.UNPLUGGED}/*/{_MODULES}"))
    for place in _places([*(start / _MODULES for start in found), *unplugged], roots):
        if place not in found:
            found[place] = Package(place, _manifest(place / "package.json"))
    zipped = list(_zipped(plugged / plugnplay.CACHE))
    component = partial(
        _component,
        there=found,
        zipped=_by_name(zipped, found) if zipped else {},
        hashes=locks.hashes(workspace.root.directory, lock),
    )
    app = found.pop(_real(workspace.app.directory))
    root = found.pop(_real(workspace.root.directory), None)
    subject = replace(component(app), kind="application", purl="")
    if root is not None and workspace.is_member:
        subject = replace(subject, depends_on=(*subject.depends_on, *component(root).depends_on))
    return sdk.Bill(tuple(component(package) for package in (*found.values(), *zipped)), subject)


def _places(waiting: list[Path], within: tuple[Path, ...]) -> Iterator[Path]:
    """Every package that a node_modules has: nested, below a scope, or where a link leads (pnpm's store)."""

    def is_within(path: Path) -> bool:
        return any(path.is_relative_to(root) for root in within)

    seen = set()
    while waiting:
        modules = _real(waiting.pop())
        if modules in seen or not is_within(modules):
            continue
        seen.add(modules)
        waiting += sorted(modules.glob(f".pnpm/*/{_MODULES}"))
        for entry in _entries(modules):
            place = _real(entry)
            if (
                not any(place.is_relative_to(root) for root in within)
                or not (place / "package.json").is_file()
            ):
                continue
            yield place
            waiting.append(place / _MODULES)
            if place.parent.name == _MODULES or place.parent.parent.name == _MODULES:
                waiting.append(place.parent if place.parent.name == _MODULES else place.parent.parent)


def _entries(modules: Path) -> Iterator[Path]:
    try:
        entries = sorted(path for path in modules.iterdir() if not path.name.startswith("."))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("@"):
            yield from sorted(entry.iterdir()) if entry.is_dir() else ()
        else:
            yield entry


def _component(
    package: Package,
    *,
    there: Mapping[Path, Package],
    zipped: Mapping[str, Package],
    hashes: Mapping[tuple[str, str], locks.Hashes],
) -> sdk.Component:
    needs = sorted(package.needs())
    neighbours = [_resolved(package.place, name, there) or zipped.get(name) for name in needs]
    return sdk.Component(
        package.name,
        package.version,
        _purl(package),
        licence=package.licence,
        hashes=hashes.get((package.name, package.version), {}),
        depends_on=tuple(_purl(neighbour) for neighbour in neighbours if neighbour is not None),
    )


def _resolved(place: Path, name: str, there: Mapping[Path, Package]) -> Package | None:
    """The package that Node.js finds when one at `place` loads `name`: the nearest node_modules has it."""
    for directory in (place, *place.parents):
        if directory.name != _MODULES:
            found = there.get(_real(directory / _MODULES / name))
            if found is not None:
                return found
    return None


def _zipped(cache: Path) -> Iterator[Package]:
    """The packages of Plug'n'Play, which stay in their archives."""
    for archive in sorted(cache.glob("*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                names = (name for name in opened.namelist() if name.endswith("/package.json"))
                name = min(names, key=lambda name: name.count("/"), default="")
                if name and opened.getinfo(name).file_size <= _LIMIT:
                    yield Package(archive, _table(opened.read(name)))
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
            continue


def _by_name(zipped: list[Package], there: Mapping[Path, Package]) -> dict[str, Package]:
    """The packages of which there is one version: which of several another loads, only the map would tell."""
    counted = Counter(package.name for package in (*zipped, *there.values()))
    return {package.name: package for package in (*zipped, *there.values()) if counted[package.name] == 1}


def _purl(package: Package) -> str:
    namespace, _, name = package.name.rpartition("/")
    return sdk.purl("npm", name, package.version, namespace=namespace)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _manifest(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return _table(file.read(_LIMIT))
    except OSError:
        return {}


def _table(data: bytes) -> Mapping[str, Any]:
    try:
        table = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
