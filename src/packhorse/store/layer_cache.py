"""Keeps an application's layers for its next build, and removes old ones when the disk needs room.

`LayerCacheWriter` turns the layers of one build into kept trees, and records what the next build may restore.
`build_layers` calls it. `Store` calls the functions, for `packhorse cache`, `--clear-cache` and limits.

Several kept trees can share a file by hard links, and the disk holds such a file once. So an application's
cache has two sizes: the bytes it takes, and the bytes that become free if it alone is removed.
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
    """The application of a build. `name` is any text that is the same at its next build.

    Apps of one `family` may begin with each other's layers. `cache` is the record file of the app, `source`
    that of the app with whose layers this build begins, itself or another.
    """

    name: str
    family: str
    cache: Path
    source: Path


@dataclass(frozen=True, slots=True)
class LayerCounters:
    """Counts what the layers of a build have cost so far.

    `untouched` layers were neither read nor hashed. `same` layers were written to, and were read to find that
    they are equal. `changed` layers were hashed, `hashed` bytes of tar in all. `linked` counts entries that a
    partly changed layer shares with its earlier tree, `copied` those that were copied for buildpacks.
    """

    untouched: int = 0
    same: int = 0
    changed: int = 0
    hashed: int = 0
    linked: int = 0
    copied: int = 0


class LayerCacheWriter:
    """Keeps the layers of one build. Several threads may use it at once.

    Entries of layers belong to `uid`:`gid` in the sandbox, and to `owner` on this machine.
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
        """What the layers have cost so far, for people."""
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
        """The time at which the build that this one begins with was recorded, in seconds since 1970, or 0."""
        source = self._app.source
        with map_errors(source):
            return source.stat().st_mtime if source.exists() else 0

    def read(self) -> bytes:
        """The metadata of the build that this one begins with, b"" if there is none."""
        metadata = (read(self._app.source) or {}).get("metadata", "")
        return str(metadata).encode("utf-8", "surrogateescape")

    def slices(self, key: str) -> tuple[Digest, ...]:
        """The slices that the build that this one begins with has recorded for the application `key`."""
        known, diff_ids = self._read_slices()
        return diff_ids if known == key else ()

    def remember_slices(self, key: str, slices: Sequence[Digest]) -> None:
        """Lets `commit` record the diff IDs of the application's slices.

        With the `key` of the application, `slices` finds them; with "" only `former_slice` does.
        """
        self._slices = {"key": key, "diff_ids": [str(diff_id) for diff_id in slices]}

    def former_slice(self, terms: str) -> AbstractContextManager[FormerSlice | None]:
        """The last slice of the build that this one begins with, if it was packed with the same `terms`.

        See `store.layers.open_former`.
        """
        diff_ids = self._read_slices()[1]
        return open_former(self._lease, diff_ids[-1], terms) if diff_ids else nullcontext(None)

    def remember_pieces(self, diff_id: Digest, terms: str, new_pieces: Mapping[str, Piece]) -> None:
        """Records where the directories of the application are in the slice `diff_id`."""
        write_pieces(self._lease, diff_id, terms, new_pieces)

    def _read_slices(self) -> tuple[str, tuple[Digest, ...]]:
        known = (read(self._app.source) or {}).get("slices")
        if isinstance(known, dict):
            with suppress(FormatError, TypeError, KeyError):  # damage
                return str(known["key"]), tuple(Digest.parse(str(text)) for text in known["diff_ids"])
        return "", ()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Replaces the record of what the app's next build may restore. Raises StoreError."""
        fields = {
            "app": self._app.name,
            "family": self._app.family,
            "metadata": metadata.decode("utf-8", "surrogateescape"),
            "layers": {path: str(diff_id) for path, diff_id in sorted(layers.items())},
            "slices": self._slices,
        }
        before = gc.paths_of_cache(read(self._app.cache))
        write(self._lease, self._app.cache, fields)
        self._lease.note_unneeded(before - gc.paths_of_cache(fields))

    def find_snapshot(self, path: str, diff_id: Digest) -> Snapshot | None:
        """The kept tree of the layer at `path`, with this build's owner; None if it is not kept."""
        tree = self._snapshots.find(diff_id, self.owner)
        return (
            tree if tree is not None and tree.location == LayerLocation(path, self._uid, self._gid) else None
        )

    def add_snapshot(self, path: str, fill: Callable[[Path], int]) -> Snapshot:
        """Makes a kept tree for the layer at `path`.

        `fill` gets the new directory of the layer's buildpack. It puts the layer's directory there, and
        returns how many of its entries are hard links.
        """
        buildpack, _ = split_layer_path(path)
        directory = self._lease.temporary_path(self._snapshots.owner_directory(self.owner))
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
        """The image layer of a kept tree."""
        return Layer(partial(self._snapshots.chunks, tree), tree.diff_id, tree.size)

    def make_directory(self, path: Path) -> None:
        """Makes a directory with mode 0755 that belongs to the CNB user. Raises OSError."""
        make_directory(path)
        os.chown(path, *self.owner)


def split_layer_path(path: str) -> tuple[str, str]:
    """The two names in `/layers/<id>/<name>`: the buildpack's directory, the layer's. Raises TreeError."""
    parts = path.split("/")
    if len(parts) != 4 or parts[:2] != ["", "layers"] or {"", ".", ".."} & set(parts[2:]):
        raise TreeError(f"{path!r} is not a layer's directory", why="those are /layers/<buildpack>/<layer>")
    return parts[2], parts[3]


_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of the application `app`: its number of layers, and its `size` in bytes of the disk.

    `alone` are the bytes that become free if it alone is removed, without those that images or other apps
    need. `used` is the time of the last build, in seconds since 1970.
    """

    app: str
    layers: int
    size: int
    alone: int
    used: float


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """The caches of all apps, the last built first. `total` are the bytes that all take together.

    That may be less than the sum of their sizes.
    """

    caches: tuple[Cache, ...]
    total: int


@dataclass(slots=True)
class _DiskUsage:
    """The bytes that trees take: `own` of the tree alone, and `shared` files by inode, with their trees."""

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
        """The bytes that these trees take."""
        linked = sum(size for size, holders in self.shared.values() if holders & trees)
        return linked + sum(self.own[tree] for tree in trees)

    def freed_by(self, trees: set[Path]) -> int:
        """The bytes that become free without these trees."""
        linked = sum(size for size, holders in self.shared.values() if holders <= trees)
        return linked + sum(self.own[tree] for tree in trees)


def measure_caches(own: Lease) -> CacheUsage:
    """Measures all caches; it stats every kept file. Raises StoreError."""
    store = own.store
    with map_errors(store):
        records = list(_list_records(store))
        needed = set[str]()
        for image in Images(own).all():
            needed |= gc.paths_of_image(store, image)
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
    """The time of the last build of each app with a cache, in seconds since 1970. Raises StoreError.

    Records without an app count as one app, "", with the time of the oldest.
    """
    with map_errors(own.store):
        return {_app(fields): time for time, _, fields in reversed(list(_list_records(own.store)))}


def remove_apps(own: Lease, apps: Iterable[str]) -> tuple[set[str], set[str]]:
    """Removes the records of these apps; returns the apps found, and the paths that they needed."""
    wanted, found, given_up = set(apps), set[str](), set[str]()
    with map_errors(own.store):
        for _, path, fields in _list_records(own.store):
            if _app(fields) in wanted:
                path.unlink(missing_ok=True)
                forget_copies(own, path.stem)
                found.add(_app(fields))
                given_up |= gc.paths_of_cache(fields)
    return found, given_up


def choose_removed(own: Lease, limit: int, *, stays: str = "") -> tuple[str, ...]:
    """The apps whose caches to remove, the longest unused first, so that at most `limit` bytes are kept.

    It counts the bytes of the layers' tars, which are in the records. It never chooses the app `stays`.
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


def find_copied_writers(store: Path, writers: Sequence[str]) -> tuple[str, ...]:
    """Those of `writers` that are known to need copies of layers, because they fail on an overlay.

    A name is known as long as one of the apps with which it failed has a cache.
    """
    known = _read_copies(store)
    return tuple(name for name in writers if name in known)


def remember_copies(lease: Lease, writer: str, app: str) -> None:
    """Records that `writer` needs copies, on account of `app`, a name in `caches/`. Raises StoreError."""
    with lock_file(lease.store / "locks" / "copied"):
        known = _read_copies(lease.store)
        known[writer] = sorted({*known.get(writer, ()), app})
        write(lease, _copies_file(lease.store), known)


def forget_copies(lease: Lease, app: str) -> None:
    """Removes `app` from the record of `remember_copies`, and names without apps. Raises StoreError."""
    if not any(app in apps for apps in _read_copies(lease.store).values()):
        return
    with lock_file(lease.store / "locks" / "copied"):
        left = {
            name: [each for each in apps if each != app] for name, apps in _read_copies(lease.store).items()
        }
        write(lease, _copies_file(lease.store), {name: apps for name, apps in left.items() if apps})


def _list_records(store: Path) -> Iterator[tuple[float, Path, dict[str, Any]]]:
    """All readable records with their times, the last written last."""
    for time, path in list_by_time(store / "caches"):
        fields = read(path)
        if fields is not None:
            yield time, path, fields


def _app(fields: dict[str, Any]) -> str:
    return str(fields.get("app", ""))


def _needed_snapshots(store: Path, fields: dict[str, Any]) -> Iterator[Path]:
    """The kept trees that a record needs, of all owners."""
    names = {name.partition("/")[2] for name in gc.paths_of_cache(fields) if name.startswith("kept/")}
    for name in sorted(names):
        yield from (path for path in store.glob(f"kept/*/{name}") if path.is_dir())


def _walk_statuses(tree: Path) -> Iterator[os.stat_result]:
    """The lstat(2) of a tree's directory and of everything in it, until the first error."""
    with suppress(OSError, TreeError), overlay.open_directory(tree.parent) as above:
        yield from overlay.walk_statuses(above, tree.name)


def _read_copies(store: Path) -> dict[str, list[str]]:
    fields = read(_copies_file(store)) or {}
    return {name: list(map(str, apps)) for name, apps in fields.items() if isinstance(apps, list)}


def _copies_file(store: Path) -> Path:
    return store / "copied.json"
