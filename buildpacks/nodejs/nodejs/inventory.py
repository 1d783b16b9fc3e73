"""Lists the installed modules as the components of an SBOM.

Reads only. Called by `sbom`, and imported only if the modules are new. The installed tree says which packages
there are, whichever manager installed them. The lockfile adds checksums; the package managers check
lockfiles, so what cannot be read here is skipped. One version of a package is one entry, however often it is
installed. Addresses are left out: they may name a developer's private mirror.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass, replace

from . import plugnplay
from .project import DEPENDENCIES
from .workspace import Workspace

_LOCK_LIMIT = 64 << 20
# `  '@babel/core@7.1.0(x@1)':` or `  /@babel/core@7.1.0:`, and the line below it.
_PNPM = re.compile(
    r"""^ {2}'?/?(@?[^@'\s]+)@([^:('\s]+)(?:[(' ][^\n:]*)?:\n {4}resolution: \{integrity: ([^,}\s]+)""",
    re.MULTILINE,
)
# `"@babel/core@^7.0.0", "@babel/core@^7.1.0":` and the lines below it.
_YARN = re.compile(
    r"""^"?(@?[^@"\s]+)@[^\n]*:\n {2}version "([^"\n]+)"\n"""
    r"""(?: {2}resolved [^\n]*\n)?(?: {2}integrity (\S+))?""",
    re.MULTILINE,
)

Hashes = Mapping[str, str]
"""Hexadecimal digits by the name of the algorithm."""


def read_hashes(root: Path, lock: str) -> dict[tuple[str, str], Hashes]:
    """Reads the checksums of packages, by name and version, from `root`/`lock`; empty without a lockfile."""
    found: dict[tuple[str, str], Hashes] = {}
    for name, version, integrity in _lock_entries(root / lock):
        digits = _to_hex(integrity)
        if digits:
            found.setdefault((name, version), digits)
    return found


def _lock_entries(lock: Path) -> Iterator[tuple[str, str, str]]:
    if lock.suffix == ".json":
        yield from _npm_lock_entries(_read_text(lock))
    elif lock.name == "pnpm-lock.yaml":
        for found in _PNPM.finditer(_read_text(lock)):
            yield found[1], found[2], found[3]
    elif lock.name == "yarn.lock":
        for found in _YARN.finditer(_read_text(lock)):
            yield found[1], found[2], found[3] or ""


def _npm_lock_entries(text: str) -> Iterator[tuple[str, str, str]]:
    try:
        packages = json.loads(text).get("packages", {})
        entries = [(path, entry) for path, entry in packages.items() if isinstance(entry, dict)]
    except (ValueError, AttributeError, RecursionError):
        return
    for path, entry in entries:
        name = entry.get("name") or path.rpartition("node_modules/")[2]
        yield str(name), str(entry.get("version", "")), str(entry.get("integrity", ""))


def _to_hex(integrity: str) -> Hashes:
    """The hexadecimal digits of `sha512-<base64>`, of each algorithm when there are several."""
    found = {}
    for word in integrity.split():
        algorithm, _, value = word.partition("-")
        try:
            found[algorithm] = base64.b64decode(value.partition("?")[0], validate=True).hex()
        except (binascii.Error, ValueError):
            continue
    lengths = {"sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
    return {name: digits for name, digits in found.items() if lengths.get(name) == len(digits)}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_LOCK_LIMIT).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


_MODULES = "node_modules"
_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """A directory with a manifest; `place` is its path with all links resolved."""

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
        """The licence in the manifest, in one of its three forms."""
        found = self.manifest.get("license") or self.manifest.get("licenses")
        listed = found if isinstance(found, list) else [found]
        names = [entry.get("type") if isinstance(entry, dict) else entry for entry in listed]
        texts = [name for name in names if isinstance(name, str) and name]
        return texts[0] if len(texts) == 1 else f"({' OR '.join(texts)})" if texts else ""

    def needs(self) -> set[str]:
        """The names of all packages that it declares to need at run time."""
        tables = (self.manifest.get(part) for part in DEPENDENCIES)
        return {name for table in tables if isinstance(table, dict) for name in table}


def list_modules(workspace: Workspace, *, within: tuple[Path, ...], plugged: Path, lock: str) -> sdk.Bill:
    """The SBOM of the application and all modules that it can load and that are `within` these directories.

    `plugged` is the directory with the packages of Plug'n'Play; `lock` is the name of the lockfile.
    """
    roots = tuple(Path(os.path.realpath(path)) for path in within)
    starts = [workspace.app.directory, workspace.root.directory]
    members = workspace.needed_members(dev=False) if workspace.is_member else workspace.members
    starts += [workspace.root.directory / path for path in members]
    found: dict[Path, Package] = {}
    for start in map(_real, dict.fromkeys(starts)):
        found[start] = Package(start, _read_manifest(start / "package.json"))
    unplugged = sorted(plugged.glob(f"{plugnplay.UNPLUGGED}/*/{_MODULES}"))
    for place in _find_packages([*(start / _MODULES for start in found), *unplugged], roots):
        if place not in found:
            found[place] = Package(place, _read_manifest(place / "package.json"))
    zipped = list(_read_zipped(plugged / plugnplay.CACHE))
    component = partial(
        _to_component,
        there=found,
        zipped=_by_name(zipped, found) if zipped else {},
        hashes=read_hashes(workspace.root.directory, lock),
    )
    app = found.pop(_real(workspace.app.directory))
    root = found.pop(_real(workspace.root.directory), None)
    subject = replace(component(app), kind="application", purl="")
    if root is not None and workspace.is_member:
        subject = replace(subject, depends_on=(*subject.depends_on, *component(root).depends_on))
    return sdk.Bill(tuple(component(package) for package in (*found.values(), *zipped)), subject)


def _find_packages(waiting: list[Path], within: tuple[Path, ...]) -> Iterator[Path]:
    """Every package in node_modules: nested, below a scope, or behind a link (pnpm's store)."""

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


def _to_component(
    package: Package,
    *,
    there: Mapping[Path, Package],
    zipped: Mapping[str, Package],
    hashes: Mapping[tuple[str, str], Hashes],
) -> sdk.Component:
    needs = sorted(package.needs())
    neighbours = [_resolve(package.place, name, there) or zipped.get(name) for name in needs]
    return sdk.Component(
        package.name,
        package.version,
        _purl(package),
        licence=package.licence,
        hashes=hashes.get((package.name, package.version), {}),
        depends_on=tuple(_purl(neighbour) for neighbour in neighbours if neighbour is not None),
    )


def _resolve(place: Path, name: str, there: Mapping[Path, Package]) -> Package | None:
    """The package that Node.js finds if one at `place` loads `name`, in the nearest node_modules."""
    for directory in (place, *place.parents):
        if directory.name != _MODULES:
            found = there.get(_real(directory / _MODULES / name))
            if found is not None:
                return found
    return None


def _read_zipped(cache: Path) -> Iterator[Package]:
    """The packages of Plug'n'Play, which stay in their archives."""
    for archive in sorted(cache.glob("*.zip")):
        try:
            with zipfile.ZipFile(archive) as opened:
                names = (name for name in opened.namelist() if name.endswith("/package.json"))
                name = min(names, key=lambda name: name.count("/"), default="")
                if name and opened.getinfo(name).file_size <= _LIMIT:
                    yield Package(archive, _parse_manifest(opened.read(name)))
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
            continue


def _by_name(zipped: list[Package], there: Mapping[Path, Package]) -> dict[str, Package]:
    """The packages with only one version. Only the map says which of several versions another loads."""
    counted = Counter(package.name for package in (*zipped, *there.values()))
    return {package.name: package for package in (*zipped, *there.values()) if counted[package.name] == 1}


def _purl(package: Package) -> str:
    namespace, _, name = package.name.rpartition("/")
    return sdk.purl("npm", name, package.version, namespace=namespace)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _read_manifest(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return _parse_manifest(file.read(_LIMIT))
    except OSError:
        return {}


def _parse_manifest(data: bytes) -> Mapping[str, Any]:
    try:
        table = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
