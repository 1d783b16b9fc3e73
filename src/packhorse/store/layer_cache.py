"""Keeps an application's layers for its next build, and removes old ones when the disk needs room.

`LayerCacheWriter` turns the layers of one build into kept trees and records what the next build may restore.
`build_layers` calls it.

Several kept trees can share a file by hard links, and the disk holds such a file once. So an application has
two sizes: the bytes it takes, and the bytes that become free when it alone is removed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.fs import overlay
from packhorse.oci.place import Layer
from packhorse.store import gc
from packhorse.store.images import Images
from packhorse.store.layers import open_former, write_pieces
from packhorse.store.leases import Lease, list_by_time, lock_file, make_directory, map_errors, read, write
from packhorse.store.snapshots import LayerLocation, LayerSnapshots, Owner, Snapshot, record_of
from packhorse.store.trash import remove
from packhorse.tar.slices import FormerSlice, Piece

TARGET = "/layers"


@dataclass(frozen=True, slots=True)
class CachedApp:
    """Whose layers they are: `name` is any text that is the same at the next build.

    `family` is what apps have in common that may begin with each other's layers; `cache` is the record file
    of the app, `source` that of the app to begin with, itself or another.
    """

    name: str
    family: str
    cache: Path
    source: Path


@dataclass(frozen=True, slots=True)
class LayerCounters:
    """What the layers of a build have cost so far.

    `untouched` layers were neither read nor hashed; `same` ones were written to, and read to learn that it
    made no difference. `hashed` is in bytes of tar; `linked` counts entries that a partly changed layer
    shares with what it was, `copied` those that were copied for buildpacks.
    """

    untouched: int = 0
    same: int = 0
    changed: int = 0
    hashed: int = 0
    linked: int = 0
    copied: int = 0


class LayerCacheWriter:
    """The layers that one build of an app makes, whose entries belong to `uid`:`gid` inside and `owner`
    outside. Safe from several threads at once.
    """

    def __init__(
        self, lease: Lease, snapshots: LayerSnapshots, app: CachedApp, *, uid: int, gid: int, owner: Owner
    ) -> None:
        self._lease = lease
        self._snapshots = snapshots
        self._app = app
        self._uid, self._gid = uid, gid
        self.owner = owner
        self._counters = LayerCounters()
        self._slices: dict[str, object] = {}
        self._lock = threading.Lock()

    @property
    def counters(self) -> LayerCounters:
        """What was done so far, for people to read."""
        with self._lock:
            return self._counters

    def count(
        self,
        *,
        untouched: int = 0,
        same: int = 0,
        changed: int = 0,
        hashed: int = 0,
        linked: int = 0,
        copied: int = 0,
    ) -> None:
        """Adds to the counters."""
        with self._lock:
            now = self._counters
            self._counters = replace(
                now,
                untouched=now.untouched + untouched,
                same=now.same + same,
                changed=now.changed + changed,
                hashed=now.hashed + hashed,
                linked=now.linked + linked,
                copied=now.copied + copied,
            )

    @property
    def last_build_time(self) -> float:
        """When the build that this one begins with was recorded, in seconds since 1970; 0 for none."""
        source = self._app.source
        with map_errors(source):
            return source.stat().st_mtime if source.exists() else 0

    def read(self) -> bytes:
        """The metadata of the build that this one begins with, b"" when there is none."""
        metadata = (read(self._app.source) or {}).get("metadata", "")
        return str(metadata).encode("utf-8", "surrogateescape")

    def slices(self, key: str) -> tuple[Digest, ...]:
        """What `remember_slices` was told of the application `key` by the build that this one begins with."""
        known, diff_ids = self._read_slices()
        return diff_ids if known == key else ()

    def remember_slices(self, key: str, slices: Sequence[Digest]) -> None:
        """Has `commit` record the diff IDs that the application `key`, empty for any, has become."""
        self._slices = {"key": key, "diff_ids": [str(diff_id) for diff_id in slices]}

    def former_slice(self, terms: str) -> AbstractContextManager[FormerSlice | None]:
        """The last slice of the build that this one begins with, if it was packed with the same `terms`.

        See `store.layers.open_former`.
        """
        diff_ids = self._read_slices()[1]
        return open_former(self._lease, diff_ids[-1], terms) if diff_ids else nullcontext(None)

    def remember_pieces(self, diff_id: Digest, terms: str, new_pieces: Mapping[str, Piece]) -> None:
        """Keeps where in a slice of this build the directories of the application are."""
        write_pieces(self._lease, diff_id, terms, new_pieces)

    def _read_slices(self) -> tuple[str, tuple[Digest, ...]]:
        known = (read(self._app.source) or {}).get("slices")
        if isinstance(known, dict):
            with suppress(FormatError, TypeError, KeyError):  # damage
                return str(known["key"]), tuple(Digest.parse(str(text)) for text in known["diff_ids"])
        return "", ()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        fields = {
            "app": self._app.name,
            "family": self._app.family,
            "metadata": metadata.decode("utf-8", "surrogateescape"),
            "layers": {path: str(diff_id) for path, diff_id in sorted(layers.items())},
            "slices": self._slices,
        }
        before = gc.needed_for_next(read(self._app.cache))
        write(self._lease, self._app.cache, fields)
        self._lease.note_unneeded(before - gc.needed_for_next(fields))

    def find_snapshot(self, path: str, diff_id: Digest) -> Snapshot | None:
        """The kept tree of the layer at `path`, with this build's owner; None when it is not kept here."""
        tree = self._snapshots.find(diff_id, self.owner)
        return (
            tree if tree is not None and tree.location == LayerLocation(path, self._uid, self._gid) else None
        )

    def add_snapshot(self, path: str, fill: Callable[[Path], int]) -> Snapshot:
        """Keeps, as the layer at `path`, what `fill` puts into the directory it is given for it.

        That directory is where those of the layer's buildpack are in a kept tree; `fill` answers how many
        entries in it are linked.
        """
        buildpack, _ = split_layer_path(path)
        directory = self._lease.temporary(self._snapshots.owner_directory(self.owner))
        parent = directory / "layers" / buildpack
        try:
            with map_errors(directory):
                for each in (directory, parent.parent, parent):
                    self.make_directory(each)
                linked = fill(parent)
            tree = self._snapshots.add(directory, LayerLocation(path, self._uid, self._gid), self.owner)
        except BaseException:
            with suppress(StoreError, HostError):
                remove(directory, self._lease)
            raise
        self.count(changed=1, hashed=tree.size, linked=linked)
        return tree

    def layer(self, tree: Snapshot) -> Layer:
        """A kept tree as a layer of an image."""
        return Layer(partial(self._snapshots.chunks, tree), tree.diff_id, tree.size)

    def make_directory(self, path: Path) -> None:
        """Makes a directory that belongs to the CNB user, whatever the umask; raises OSError."""
        make_directory(path)
        os.chown(path, *self.owner)


def split_layer_path(path: str) -> tuple[str, str]:
    """The buildpack's directory and the layer's name of `/layers/<id>/<name>`."""
    parts = path.split("/")
    if len(parts) != 4 or parts[:2] != ["", "layers"] or {"", ".", ".."} & set(parts[2:]):
        raise TreeError(f"{path!r} is not a layer's directory", why="those are /layers/<buildpack>/<layer>")
    return parts[2], parts[3]


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
class CacheUsage:
    """Every app's cache, the last built first; `total` is what all take together, perhaps less than their
    sum.
    """

    caches: tuple[Cache, ...]
    total: int


@dataclass(slots=True)
class _DiskUsage:
    """What trees take: each its own files, and those that it shares, by inode."""

    own: dict[Path, int] = field(default_factory=dict)
    shared: dict[int, tuple[int, set[Path]]] = field(default_factory=dict)

    def add(self, tree: Path) -> None:
        total = 0
        for status in _walk_statuses(tree):
            size = status.st_blocks * _BLOCK
            if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                total += size
            else:
                self.shared.setdefault(status.st_ino, (size, set()))[1].add(tree)
        self.own[tree] = total

    def size_of(self, trees: set[Path]) -> int:
        """What these trees take."""
        linked = sum(size for size, holders in self.shared.values() if holders & trees)
        return linked + sum(self.own[tree] for tree in trees)

    def freed_by(self, trees: set[Path]) -> int:
        """What is free without these trees."""
        linked = sum(size for size, holders in self.shared.values() if holders <= trees)
        return linked + sum(self.own[tree] for tree in trees)


def measure_caches(own: Lease) -> CacheUsage:
    """Looks at everything that is kept; raises StoreError."""
    store = own.store
    with map_errors(store):
        records = list(_list_records(store))
        needed = set[str]()
        for image in Images(own).all():
            needed |= gc.needed_for(store, image)
        disk, trees = _DiskUsage(), dict[Path, set[Path]]()
        for _, path, fields in records:
            trees[path] = set(_needed_snapshots(store, fields))
        for tree in sorted(set[Path]().union(*trees.values())):
            disk.add(tree)
        caches = []
        for time, path, fields in records:
            others = set[Path]().union(*(each for other, each in trees.items() if other != path))
            lonely = {tree for tree in trees[path] - others if f"kept/{tree.name}" not in needed}
            size, alone = disk.size_of(trees[path]), disk.freed_by(lonely)
            caches.append(Cache(_app(fields), len(trees[path]), size, alone, time))
        total = disk.size_of(set(disk.own))
    return CacheUsage(tuple(sorted(caches, key=lambda cache: -cache.used)), total)


def find_last_use(own: Lease) -> dict[str, float]:
    """When each app with a cache was last built, in seconds since 1970, without looking at what is kept.

    Of damaged records, which are nobody's, it is the oldest.
    """
    with map_errors(own.store):
        return {_app(fields): time for time, _, fields in reversed(list(_list_records(own.store)))}


def remove_apps(own: Lease, apps: Iterable[str]) -> tuple[set[str], set[str]]:
    """Forgets what is kept for these apps; answers which there were, and what may be needed no more."""
    wanted, found, given_up = set(apps), set[str](), set[str]()
    with map_errors(own.store):
        for _, path, fields in _list_records(own.store):
            if _app(fields) in wanted:
                path.unlink(missing_ok=True)
                forget_copies(own, path.stem)
                found.add(_app(fields))
                given_up |= gc.needed_for_next(fields)
    return found, given_up


def choose_removed(own: Lease, limit: int, *, stays: str = "") -> tuple[str, ...]:
    """The apps whose caches go, the longest unused first, so that no more than `limit` bytes are kept.

    Bytes are those of the layers' tars, which are known without looking at any file. The app `stays` does not
    go, nor is what it alone takes a reason for others to.
    """
    with map_errors(own.store):
        found = list(_list_records(own.store))
        sizes: dict[Path, int] = {}
        users: dict[Path, int] = {}
        for _, _, fields in found:
            for tree in _needed_snapshots(own.store, fields):
                sizes.setdefault(tree, int((read(record_of(tree)) or {}).get("size", 0)))
                users[tree] = users.get(tree, 0) + 1
        total = sum(sizes.values())
        gone = []
        for _, _, fields in found:
            if total <= limit:
                break
            if _app(fields) == stays:
                continue
            for tree in _needed_snapshots(own.store, fields):
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
    with lock_file(lease.store / "locks" / "copied"):
        known = _read_copies(lease.store)
        known[writer] = sorted({*known.get(writer, ()), app})
        write(lease, _copies_file(lease.store), known)


def forget_copies(lease: Lease, app: str) -> None:
    """Forgets the names that only `app` was the reason for; raises StoreError."""
    if not any(app in apps for apps in _read_copies(lease.store).values()):
        return
    with lock_file(lease.store / "locks" / "copied"):
        left = {
            name: [each for each in apps if each != app] for name, apps in _read_copies(lease.store).items()
        }
        write(lease, _copies_file(lease.store), {name: apps for name, apps in left.items() if apps})


def _list_records(store: Path) -> Iterator[tuple[float, Path, dict[str, Any]]]:
    """What is recorded, the last written last."""
    for time, path in list_by_time(store / "caches"):
        fields = read(path)
        if fields is not None:
            yield time, path, fields


def _app(fields: dict[str, Any]) -> str:
    return str(fields.get("app", ""))


def _needed_snapshots(store: Path, fields: dict[str, Any]) -> Iterator[Path]:
    """The kept trees that a record needs, whoever's they are."""
    names = {name.partition("/")[2] for name in gc.needed_for_next(fields) if name.startswith("kept/")}
    for name in sorted(names):
        yield from (path for path in store.glob(f"kept/*/{name}") if path.is_dir())


def _walk_statuses(tree: Path) -> Iterator[os.stat_result]:
    """The directory and all in it, as far as it may be looked into."""
    with suppress(OSError, TreeError), overlay.open_directory(tree.parent) as above:
        yield from overlay.walk_statuses(above, tree.name)


def _read_copies(store: Path) -> dict[str, list[str]]:
    fields = read(_copies_file(store)) or {}
    return {name: list(map(str, apps)) for name, apps in fields.items() if isinstance(apps, list)}


def _copies_file(store: Path) -> Path:
    return store / "copied.json"
