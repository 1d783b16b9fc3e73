"""What apps have kept for their next builds: how much of the disk each takes, and what goes to make room.

A file that several kept trees share by hard links is on the disk once, so what an app takes and what is free
when it alone is removed are two numbers. Called by store; which app has which layers is `harvest`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import dataclass, field
from packhorse.errors import TreeError
from packhorse.store import gc, merge, record
from packhorse.store.fault import faults
from packhorse.store.images import Images
from packhorse.store.kept import record_of
from packhorse.store.lease import Lease, locked

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Cache:
    """What is kept for the next build of `app`: so many layers, in bytes of the disk.

    `alone` is what is free when this one is removed and all else stays: nothing that images or other apps
    need too. `used` is when it was last built, in seconds since 1970.
    """

    app: str
    layers: int
    size: int
    alone: int
    used: float


@dataclass(frozen=True, slots=True)
class Survey:
    """Every app's cache, the last built first; `total` is what all take together, perhaps less than their
    sum.
    """

    caches: tuple[Cache, ...]
    total: int


@dataclass(slots=True)
class _Disk:
    """What trees take: each its own files, and those that it shares, by inode."""

    own: dict[Path, int] = field(default_factory=dict)
    shared: dict[int, tuple[int, set[Path]]] = field(default_factory=dict)

    def look(self, tree: Path) -> None:
        total = 0
        for status in _below(tree):
            size = status.st_blocks * _BLOCK
            if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                total += size
            else:
                self.shared.setdefault(status.st_ino, (size, set()))[1].add(tree)
        self.own[tree] = total

    def takes(self, trees: set[Path]) -> int:
        """What these trees take."""
        linked = sum(size for size, holders in self.shared.values() if holders & trees)
        return linked + sum(self.own[tree] for tree in trees)

    def frees(self, trees: set[Path]) -> int:
        """What is free without these trees."""
        linked = sum(size for size, holders in self.shared.values() if holders <= trees)
        return linked + sum(self.own[tree] for tree in trees)


def survey(own: Lease) -> Survey:
    """Looks at everything that is kept; raises StoreError."""
    store = own.store
    with faults(store):
        records = list(_records(store))
        needed = set[str]()
        for image in Images(own).all():
            needed |= gc.needed_for(store, image)
        disk, trees = _Disk(), dict[Path, set[Path]]()
        for _, path, fields in records:
            trees[path] = set(_trees(store, fields))
        for tree in sorted(set[Path]().union(*trees.values())):
            disk.look(tree)
        caches = []
        for time, path, fields in records:
            others = set[Path]().union(*(each for other, each in trees.items() if other != path))
            lonely = {tree for tree in trees[path] - others if f"kept/{tree.name}" not in needed}
            size, alone = disk.takes(trees[path]), disk.frees(lonely)
            caches.append(Cache(_app(fields), len(trees[path]), size, alone, time))
        total = disk.takes(set(disk.own))
    return Survey(tuple(sorted(caches, key=lambda cache: -cache.used)), total)


def used(own: Lease) -> dict[str, float]:
    """When each app with a cache was last built, in seconds since 1970, without looking at what is kept.

    Of damaged records, which are nobody's, it is the oldest.
    """
    with faults(own.store):
        return {_app(fields): time for time, _, fields in reversed(list(_records(own.store)))}


def remove(own: Lease, apps: Iterable[str]) -> tuple[set[str], set[str]]:
    """Forgets what is kept for these apps; answers which there were, and what may be needed no more."""
    wanted, found, given_up = set(apps), set[str](), set[str]()
    with faults(own.store):
        for _, path, fields in _records(own.store):
            if _app(fields) in wanted:
                path.unlink(missing_ok=True)
                forget_copies(own, path.stem)
                found.add(_app(fields))
                given_up |= gc.needed_for_next(fields)
    return found, given_up


def to_remove(own: Lease, limit: int, *, stays: str = "") -> tuple[str, ...]:
    """The apps whose caches go, the longest unused first, so that no more than `limit` bytes are kept.

    Bytes are those of the layers' tars, which are known without looking at any file. The app `stays` does not
    go, nor is what it alone takes a reason for others to.
    """
    with faults(own.store):
        found = list(_records(own.store))
        sizes: dict[Path, int] = {}
        users: dict[Path, int] = {}
        for _, _, fields in found:
            for tree in _trees(own.store, fields):
                sizes.setdefault(tree, int((record.read(record_of(tree)) or {}).get("size", 0)))
                users[tree] = users.get(tree, 0) + 1
        total = sum(sizes.values())
        gone = []
        for _, _, fields in found:
            if total <= limit:
                break
            if _app(fields) == stays:
                continue
            for tree in _trees(own.store, fields):
                users[tree] -= 1
                total -= 0 if users[tree] else sizes[tree]
            gone.append(_app(fields))
    return tuple(gone)


def needing_copies(store: Path, writers: Sequence[str]) -> tuple[str, ...]:
    """Those of the buildpacks that write to layers and cannot have them as an overlay; platform says which.

    A name stays as long as one of the apps in which that was seen has layers kept for its next build.
    """
    known = _read_copies(store)
    return tuple(name for name in writers if name in known)


def remember_copies(lease: Lease, writer: str, app: str) -> None:
    """Remembers a name for `app`, a record of `caches/`; raises StoreError."""
    with locked(lease.store / "locks" / "copied"):
        known = _read_copies(lease.store)
        known[writer] = sorted({*known.get(writer, ()), app})
        record.write(lease, _copies_file(lease.store), known)


def forget_copies(lease: Lease, app: str) -> None:
    """Forgets the names that only `app` was the reason for; raises StoreError."""
    if not any(app in apps for apps in _read_copies(lease.store).values()):
        return
    with locked(lease.store / "locks" / "copied"):
        left = {
            name: [each for each in apps if each != app] for name, apps in _read_copies(lease.store).items()
        }
        record.write(lease, _copies_file(lease.store), {name: apps for name, apps in left.items() if apps})


def _records(store: Path) -> Iterator[tuple[float, Path, dict[str, Any]]]:
    """What is recorded, the last written last."""
    for time, path in record.dated(store / "caches"):
        fields = record.read(path)
        if fields is not None:
            yield time, path, fields


def _app(fields: dict[str, Any]) -> str:
    return str(fields.get("app", ""))


def _trees(store: Path, fields: dict[str, Any]) -> Iterator[Path]:
    """The kept trees that a record needs, whoever's they are."""
    names = {name.partition("/")[2] for name in gc.needed_for_next(fields) if name.startswith("kept/")}
    for name in sorted(names):
        yield from (path for path in store.glob(f"kept/*/{name}") if path.is_dir())


def _below(tree: Path) -> Iterator[os.stat_result]:
    """The directory and all in it, as far as it may be looked into."""
    with suppress(OSError, TreeError), merge.directory(tree.parent) as above:
        yield from merge.statuses(above, tree.name)


def _read_copies(store: Path) -> dict[str, list[str]]:
    fields = record.read(_copies_file(store)) or {}
    return {name: list(map(str, apps)) for name, apps in fields.items() if isinstance(apps, list)}


def _copies_file(store: Path) -> Path:
    return store / "copied.json"
