"""Updates node_modules of the last build to the present lockfile.

Called by `npm`. `npm ci` begins by removing everything. If one of 650 packages is new, that takes 14 seconds,
and adding only that one takes one second. The result must have the same bytes. So this module removes the
packages that changed, and npm only adds packages. Then npm's record of what it installed, and the lockfile
that it would write for package.json, must equal the lockfile.

A package with install scripts stays as its scripts made it. That is right only if everything that it depends
on stays too. Otherwise, and if there are links or packages inside packages, everything is installed again.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from packhorse.sdk.command import CommandFailed

from ..node_modules import delete

Packages = Mapping[str, Mapping[str, Any]]
"""The lockfile's entry of each package, by its path: `node_modules/a/node_modules/@b/c`."""

# Here npm records what it installed, in the form of a lockfile.
_RECORD = ".package-lock.json"
_VERSIONS = (2, 3)
_MODULES = "node_modules"
_PATH = re.compile(
    r"node_modules/(?:@[^/.@][^/]*/)?[^/.@][^/]*(?:/node_modules/(?:@[^/.@][^/]*/)?[^/.@][^/]*)*"
)
# Fields of a package that has more than its archive and what its install scripts make of that.
_SPECIAL = ("link", "extraneous", "hasShrinkwrap")
_GYP = "binding.gyp"
_NEEDS = ("dependencies", "optionalDependencies", "peerDependencies")
# npm's own files in node_modules. Scripts may have put others there, and their owner is unknown.
_OWN = (".bin", _RECORD)
_CPUS = {"x86_64": "x64", "aarch64": "arm64"}


def install_changes(
    modules: Path, lock: Path, record: bytes, *, omit: Collection[str], install: Callable[[], None]
) -> bool:
    """Changes the directory `modules`, which `record` describes, to what `npm ci` would make.

    `omit` has the kinds of dependencies that are left out. `install` runs `npm install` there, which writes
    its result for package.json into `lock`, and raises CommandFailed. Returns False if it cannot be done or
    has failed; the directory then cannot be used.
    """
    try:
        return _install_changes(modules.parent, lock, record, omit, install)
    except (CommandFailed, OSError, RecursionError):
        return False


def _install_changes(
    directory: Path, lock: Path, record: bytes, omit: Collection[str], install: Callable[[], None]
) -> bool:
    whole, before = read_packages(lock.read_bytes()), read_packages(record)
    if whole is None or before is None:
        return False
    wanted = {path: entry for path, entry in whole.items() if not _is_left_out(entry, omit)}
    there = packages_for_this_system(wanted, _roots(lock.read_bytes()))
    compiled = [path for path in before if (directory / path / _GYP).exists()]
    shared = reusable_packages(before, there, compiled)
    if not shared or not _is_as_recorded(directory, before) or _has_more(directory / _MODULES):
        return False
    _remove_packages(directory, {path: entry for path, entry in before.items() if path not in shared})
    _remove_empty(directory, shared)
    content = {"lockfileVersion": _VERSIONS[-1], "requires": True, "packages": shared}
    # The record must be newer than all directories, because npm checks if they changed after it.
    told = directory / _MODULES / _RECORD
    told.write_text(json.dumps(content))
    install()
    made, ideal = read_packages(told.read_bytes()), read_packages(lock.read_bytes())
    if made is None or ideal is None:
        return False
    is_all = _are_all_locked(made, wanted) and there.keys() <= made.keys()
    return _lock_has_all(ideal, whole) and is_all and _is_as_recorded(directory, made)


def read_packages(text: bytes) -> Packages | None:
    """The packages of a lockfile or a record, without the project; None for another form or version."""
    try:
        said = json.loads(text)
        if said["lockfileVersion"] not in _VERSIONS:
            return None
        found = {str(path): dict(entry) for path, entry in said["packages"].items() if path}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found


def reusable_packages(before: Packages, there: Packages, compiled: Collection[str] = ()) -> Packages:
    """Returns the packages of `before` that the new lockfile has in the same place; none if that is
    uncertain.

    The entries are those of the new lockfile. A package inside a changed package has changed too. A package
    with install scripts, or one that npm compiles without any (`compiled`), can only be reused with all that
    it depends on: otherwise the effects of its scripts on other packages would stay or be missing. The same
    holds for a package with packages in its archive, and for all packages that have a program of the same
    name.
    """
    if not all(_is_plain(path, entry) for path, entry in (*before.items(), *there.items())):
        return {}
    same = {
        path for path, entry in before.items() if path in there and _is_linked_the_same(entry, there[path])
    }
    kept = {path: there[path] for path in before if same.issuperset(_with_parents(path))}
    bundled = {path for part in (before, there) for path, entry in part.items() if _is_bundled(entry)}
    if not kept.keys() >= bundled | _rivals(before) | _rivals(there):
        return {}
    for path in (path for path, entry in before.items() if entry.get("hasInstallScript") or path in compiled):
        needed = _closure(path, before)
        if needed != _closure(path, there) or not needed <= kept.keys():
            return {}
    return kept


def packages_for_this_system(wanted: Packages, roots: Collection[str] = ()) -> Packages:
    """The packages of a lockfile that npm installs on this system.

    npm leaves out packages for other systems, with the packages inside them and those that no other package
    needs. `roots` are the packages that the project itself needs.
    """
    dependents: dict[str, set[str]] = {}
    for path in wanted:
        for needed in _needs(path, wanted):
            dependents.setdefault(needed, set()).add(path)
    optional = {path for path, entry in wanted.items() if _is_optional(entry)}
    absent: set[str] = set()
    new = {path for path in optional if _is_for_other_systems(wanted[path])}
    while new:
        absent |= new
        absent |= {path for path in wanted if not absent.isdisjoint(_with_parents(path))}
        left = optional - absent - set(roots)
        new = {path for path in left if path in dependents and dependents[path] <= absent}
    return {path: entry for path, entry in wanted.items() if path not in absent}


def _roots(lock: bytes) -> set[str]:
    """The paths of the packages that the project itself needs."""
    root = json.loads(lock)["packages"].get("", {})
    return {f"{_MODULES}/{name}" for table in (*_NEEDS, "devDependencies") for name in root.get(table, ())}


def _needs(path: str, entries: Packages) -> Iterator[str]:
    """The paths of a package's dependencies, as Node.js finds them, without missing ones."""
    for table in _NEEDS:
        needs = entries[path].get(table)
        for name in needs if isinstance(needs, dict) else ():
            places = [f"{around}/{_MODULES}/{name}" for around in _with_parents(path)]
            found = next((place for place in (*places, f"{_MODULES}/{name}") if place in entries), "")
            if found:
                yield found


def _closure(path: str, entries: Packages) -> set[str]:
    """The paths of a package and of all that it depends on."""
    found: set[str] = set()
    left = [path]
    while left:
        one = left.pop()
        if one in entries and one not in found:
            found.add(one)
            left += _needs(one, entries)
    return found


def _is_left_out(entry: Mapping[str, Any], omit: Collection[str]) -> bool:
    """Whether `--omit` leaves a package out. If both devDependencies and optional ones need it, only both
    together do.
    """
    if entry.get("devOptional"):
        return "dev" in omit and "optional" in omit
    return any(entry.get(kind) and kind in omit for kind in ("dev", "optional", "peer"))


def _is_for_other_systems(entry: Mapping[str, Any]) -> bool:
    """Whether npm leaves out an optional package without an error, because it is for other systems.

    The lockfile says which packages these are; records do not always.
    """
    return any(_excludes(entry.get(name), value) for name, value in _this_system().items() if value)


def _is_optional(entry: Mapping[str, Any]) -> bool:
    return any(entry.get(kind) for kind in ("optional", "devOptional"))


def _is_bundled(entry: Mapping[str, Any]) -> bool:
    """Whether a package comes in another's archive, or has others in its own."""
    return bool(entry.get("inBundle") or entry.get("bundleDependencies"))


@cache
def _this_system() -> Mapping[str, str]:
    """This system in the words of package.json; empty if it has none."""
    return {"os": "linux", "cpu": _CPUS.get(platform.machine(), ""), "libc": platform.libc_ver()[0] or "musl"}


def _excludes(said: object, value: str) -> bool:
    words = [said] if isinstance(said, str) else said
    if not isinstance(words, list) or not words or "any" in words:
        return False
    only_excludes = all(str(word).startswith("!") for word in words)
    return f"!{value}" in words or (value not in words and not only_excludes)


def _is_plain(path: str, entry: Mapping[str, Any]) -> bool:
    """Whether a package has only the files of its archive, and what its own scripts made of these."""
    # A package in the archive of another is covered by the other's integrity.
    needed = ("version",) if entry.get("inBundle") else ("version", "integrity")
    named = all(isinstance(entry.get(name), str) for name in needed)
    return bool(_PATH.fullmatch(path)) and named and not any(entry.get(mark) for mark in _SPECIAL)


def _rivals(entries: Packages) -> set[str]:
    """The packages that have a program of the same name for the same `.bin`; the last one gets it."""
    owners: dict[tuple[str, str], set[str]] = {}
    for path, entry in entries.items():
        programs = entry.get("bin")
        level = path.rpartition(f"{_MODULES}/")[0]
        for name in programs if isinstance(programs, dict) else ():
            owners.setdefault((level, str(name)), set()).add(path)
    return {path for several in owners.values() if len(several) > 1 for path in several}


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("version", "integrity"))


def _is_linked_the_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a package is the same, and so are its programs, to which npm makes links by the lockfile."""
    return _is_same(one, other) and one.get("bin") == other.get("bin")


def _lock_has_all(ideal: Packages, lock: Packages) -> bool:
    """Whether the lockfile has all that package.json asks for, also what is left out. `npm ci` checks the
    same.
    """
    return all(
        path in lock and lock[path].get("version") == one.get("version") for path, one in ideal.items()
    )


def _with_parents(path: str) -> Iterator[str]:
    """A package's path, and those of the packages that it lies in."""
    while path:
        yield path
        path = path.rpartition(f"/{_MODULES}/")[0]


def _is_as_recorded(directory: Path, entries: Packages) -> bool:
    """Whether exactly the named packages exist."""
    seen = set()
    for path in ("", *entries):
        for found in _list_packages(directory, f"{path}/{_MODULES}" if path else _MODULES):
            if found not in entries:
                return False
            seen.add(found)
    return seen == entries.keys()


def _has_more(modules: Path) -> bool:
    """Whether there is anything beside the packages that npm did not put there, such as `.prisma`."""
    return any(path.name.startswith(".") and path.name not in _OWN for path in modules.iterdir())


def _list_packages(directory: Path, modules: str) -> Iterator[str]:
    """The paths in one node_modules, without npm's own files."""
    try:
        with os.scandir(directory / modules) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.startswith("@"):
            with os.scandir(directory / modules / name) as entries:
                yield from (f"{modules}/{name}/{entry.name}" for entry in entries)
        else:
            yield f"{modules}/{name}"


def _remove_packages(directory: Path, gone: Packages) -> None:
    """Removes packages, the links to their programs, and a `.bin` that becomes empty."""
    for path in sorted(gone):
        delete(directory / path)
    for path, entry in gone.items():
        modules = directory / path.rpartition(f"{_MODULES}/")[0] / _MODULES
        programs = entry.get("bin")
        for name in programs if isinstance(programs, dict) else ():
            link = modules / ".bin" / Path(str(name)).name
            if link.is_symlink() and not link.exists():
                link.unlink()
        bins = modules / ".bin"
        if bins.is_dir() and not any(bins.iterdir()):
            bins.rmdir()


def _remove_empty(directory: Path, kept: Packages) -> None:
    """Removes directories of scopes and of nested modules that have no package.

    They remain after packages were removed, and npm leaves them if it left out an optional package.
    """
    for path in ("", *sorted(kept, reverse=True)):
        modules = directory / path / _MODULES
        for scope in modules.glob("@*"):
            if not any(scope.iterdir()):
                scope.rmdir()
        if path and modules.is_dir() and not any(modules.iterdir()):
            modules.rmdir()


def _are_all_locked(made: Packages, wanted: Packages) -> bool:
    """Whether everything that npm installed equals the lockfile."""
    return all(path in wanted and _is_same(entry, wanted[path]) for path, entry in made.items())
