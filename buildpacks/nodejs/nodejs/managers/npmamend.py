"""node_modules of the last build, brought up to what the lock says now: npm adds to what is there.

On the arrow plan → layers. Called by `npm`. `npm ci` begins with removing all, and takes 14 seconds for 650
packages of which one is new; adding that one takes one. The outcome has to be the same to the bit. So what
the lock no longer has in this form is removed here, npm is left with nothing but to add, and what it says
that it has made is held against the lock. It is not tried where more than unpacking makes a package what it
is (install scripts, links, packages within packages), and where it is not certain all is installed again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from packhorse.sdk.command import CommandFailed
from packhorse.sdk.regex import regex

from ..removal import delete

Packages = Mapping[str, Mapping[str, Any]]
"""What a lock says of each package, by its path: `node_modules/a/node_modules/@b/c`."""

# In which npm says what it has installed, in the form of a lock.
_RECORD = ".package-lock.json"
_VERSIONS = (2, 3)
_MODULES = "node_modules"
_PATH = regex(r"node_modules/(?:@[^/.@][^/]*/)?[^/.@][^/]*(?:/node_modules/(?:@[^/.@][^/]*/)?[^/.@][^/]*)*")
# What makes a package more than its archive.
_MORE = ("hasInstallScript", "link", "inBundle", "bundleDependencies", "extraneous", "hasShrinkwrap")
_GYP = "binding.gyp"


def amend(
    modules: Path, lock: bytes, record: bytes, *, omit: Collection[str], install: Callable[[], None]
) -> bool:
    """Makes of the directory `modules`, of which `record` speaks, what `npm ci` makes of nothing.

    `omit` has the kinds of dependencies that are left out; `install` runs `npm install` there, and raises
    CommandFailed. False where that cannot be done, or was not; the directory is then of no use any more.
    """
    directory, told = modules.parent, modules / _RECORD
    wanted, before = packages(lock), packages(record)
    if wanted is None or before is None:
        return False
    wanted = {path: entry for path, entry in wanted.items() if not _is_left_out(entry, omit)}
    shared = common(before, wanted)
    if not shared or not _is_as_recorded(directory, before):
        return False
    _remove(directory, {path: entry for path, entry in before.items() if path not in shared})
    content = {"lockfileVersion": _VERSIONS[-1], "requires": True, "packages": shared}
    # Newer than all directories: npm looks whether somebody has been there since.
    told.write_text(json.dumps(content))
    try:
        install()
        made = packages(told.read_bytes())
    except (CommandFailed, OSError):
        return False
    return made is not None and _is_all(made, wanted) and _is_as_recorded(directory, made)


def packages(text: bytes) -> Packages | None:
    """The packages of a lock or a record, without the project itself; None for another form or version."""
    try:
        said = json.loads(text)
        if said["lockfileVersion"] not in _VERSIONS:
            return None
        found = {str(path): dict(entry) for path, entry in said["packages"].items() if path}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return found


def common(before: Packages, wanted: Packages) -> Packages:
    """The packages of `before` that `wanted` has in the same place; none where one is more than its archive.

    They are described as `wanted` does. What lies in a package that is not the same is not the same either.
    """
    there = {path: entry for path, entry in wanted.items() if not _is_foreign(entry)}
    if not all(_is_plain(path, entry) for path, entry in (*before.items(), *there.items())):
        return {}
    if _has_rivals(before) or _has_rivals(there):
        return {}
    same = {path for path, entry in before.items() if path in wanted and _is_same(entry, wanted[path])}
    return {path: wanted[path] for path in before if same.issuperset(_with_those_around(path))}


def _is_left_out(entry: Mapping[str, Any], omit: Collection[str]) -> bool:
    """As npm decides it (`--omit`): what both devDependencies and optional ones need goes with both."""
    if entry.get("devOptional"):
        return "dev" in omit and "optional" in omit
    return any(entry.get(kind) and kind in omit for kind in ("dev", "optional", "peer"))


def _is_foreign(entry: Mapping[str, Any]) -> bool:
    """Whether npm leaves an optional package out, as it is for other systems."""
    systems = entry.get("os")
    return bool(
        entry.get("optional")
        and isinstance(systems, list)
        and systems
        and "linux" not in systems
        and not any(str(system).startswith("!") for system in systems)
    )


def _is_plain(path: str, entry: Mapping[str, Any]) -> bool:
    """Whether a package is what is in its archive, and no more."""
    named = all(isinstance(entry.get(name), str) for name in ("version", "integrity"))
    return bool(_PATH.fullmatch(path)) and named and not any(entry.get(mark) for mark in _MORE)


def _has_rivals(entries: Packages) -> bool:
    """Whether two packages have a program of one name for the same `.bin`: who comes last has it."""
    names: Counter[tuple[str, str]] = Counter()
    for path, entry in entries.items():
        programs = entry.get("bin")
        level = path.rpartition(_MODULES)[0]
        names.update((level, str(name)) for name in (programs if isinstance(programs, dict) else ()))
    return any(count > 1 for count in names.values())


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("version", "integrity"))


def _with_those_around(path: str) -> Iterator[str]:
    """A package's path, and those of the packages that it lies in."""
    while path:
        yield path
        path = path.rpartition(f"/{_MODULES}/")[0]


def _is_as_recorded(directory: Path, entries: Packages) -> bool:
    """Whether all packages that are named are there and no others, and none has to be compiled."""
    seen = set()
    for path in ("", *entries):
        for found in _inside(directory, f"{path}/{_MODULES}" if path else _MODULES):
            if found not in entries or (directory / found / _GYP).exists():
                return False
            seen.add(found)
    return seen == entries.keys()


def _inside(directory: Path, modules: str) -> Iterator[str]:
    """The paths of what is in one node_modules, but what npm itself puts there."""
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


def _remove(directory: Path, gone: Packages) -> None:
    """Removes packages, the links to their programs, and the directories that are empty then."""
    for path in sorted(gone):
        delete(directory / path)
    for path, entry in gone.items():
        modules = directory / path.rpartition(_MODULES)[0] / _MODULES
        programs = entry.get("bin")
        for name in programs if isinstance(programs, dict) else ():
            link = modules / ".bin" / str(name)
            if link.is_symlink() and not link.exists():
                link.unlink()
        for place in (modules / ".bin", (directory / path).parent, modules):
            if place != directory / _MODULES and place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _is_all(made: Packages, wanted: Packages) -> bool:
    """Whether npm has made what the lock says; optional packages may be missing."""
    same = all(path in wanted and _is_same(entry, wanted[path]) for path, entry in made.items())
    missing = (wanted[path] for path in wanted.keys() - made.keys())
    return same and all(
        any(entry.get(kind) for kind in ("optional", "devOptional", "peer")) for entry in missing
    )
