"""The store: one directory of one user that holds images, layers and file trees.

::

    oci-layout  index.json  blobs/sha256/    an OCI layout of the images that are whole (blobs, images)
    images.json                              every name (images)
    layers/<diff ID>.json                    facts about a layer (layers)
    layers/<diff ID>.pieces                  where the directories of an application lie in it (layers)
    trees/<map>/  roots/<map>/               unpacked layers, and merged root file systems (roots)
    kept/<owner>/  caches/<app>.json         layers for the next build, by owner (snapshots, layer_cache)
    copied.json                              applications that get copies of layers (layer_cache)
    settled.json  unsettled                  which trees are certainly on the disk (tree_sync)
    leases/  scratch/  gate  locks/          what running commands use, and unfinished files (leases)
    version  spare/                          the store's version; reserved room for commands that free some

`Store` joins the parts, and opens, creates or upgrades the directory; `host.wiring` opens it. A command may
be killed at any point: the next one can use the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from packhorse.base.digest import Digest
from packhorse.base.progress import Meter
from packhorse.errors import HostError, StoreError
from packhorse.fs.walk import RemovalBudget
from packhorse.linux.userns import IdMap
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Descriptor, Index
from packhorse.store import gc, images
from packhorse.store.blobs import Blobs
from packhorse.store.build_layers import CopyLayerCache, OverlayLayerCache
from packhorse.store.gc import FreedSpace
from packhorse.store.images import ImageRecord, Images, RemovedNames
from packhorse.store.layer_cache import (
    CachedApp,
    CacheUsage,
    LayerCacheWriter,
    choose_removed,
    find_last_use,
    forget_copies,
    measure_caches,
    needing_copies,
    remember_copies,
    remove_apps,
)
from packhorse.store.layers import LayerIndex, LayerStore, read_record
from packhorse.store.leases import (
    Lease,
    gate_path,
    is_about,
    list_by_time,
    lock_file,
    make_directory,
    make_error,
    map_errors,
    read,
    sync_directory,
    write_bytes,
)
from packhorse.store.place import StorePlace
from packhorse.store.roots import Trees
from packhorse.store.snapshots import LayerLocation, LayerSnapshots, import_layer
from packhorse.store.trash import open_trash_lease, remove, remove_in_background, trash, wait_for_removal
from packhorse.store.tree_sync import TreeSync

if TYPE_CHECKING:
    from packhorse.store.gc import DamageReport

VERSION = 2
"""Of what is in a store. 1 had trees that are not recognised now: they are made anew, or read once."""

_DIRECTORIES = (
    *("blobs", "blobs/sha256", "layers", "trees", "roots", "kept", "caches"),
    *("leases", "scratch", "locks", "spare"),
)
_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": Index.of(()).raw,
    "images.json": images.EMPTY,
}
_OTHERS = {"version", "gate"}
_SPARE_FILES, _SPARE_BYTES = 8, 1 << 17


def open_or_create(path: Path, *, frees: bool = False) -> Lease:
    """A lease in the store at `path`, which is made if there is none; StoreError when that cannot be used."""
    with map_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"the store at {path} belongs to another user",
            why=f"its owner is user {status.st_uid}, this is user {os.geteuid()}",
            fix="choose another place for the store, or run as that user",
        )
    version = _read_version(path)
    if version is None:
        _create_directories(path)
    elif status.st_mode & 0o077:
        # Layers may have setuid files of this user's, which others must not come to.
        with suppress(OSError):
            path.chmod(0o700)
    if frees:
        _release_reserve(path)
    lease = Lease.acquire(path)
    if version is None or (version < VERSION and lease.descriptor is not None):
        try:
            with lock_file(gate_path(path)):
                _complete(lease)
        except BaseException:
            lease.close()
            raise
    return lease


def reserve_space(path: Path) -> None:
    """Lays files aside for commands that free space, so that they can write on a full disk; if it is not."""
    for number in range(_SPARE_FILES):
        with suppress(OSError), (path / "spare" / f"{number}").open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, _SPARE_BYTES)


def _release_reserve(path: Path) -> None:
    for number in range(_SPARE_FILES):
        with suppress(OSError):
            (path / "spare" / f"{number}").unlink()


def _read_version(path: Path) -> int | None:
    """The version of a store, None where one is still to be made; StoreError for one that cannot be used."""
    file = path / "version"
    with map_errors(file):
        try:
            text = file.read_bytes().strip()
        except FileNotFoundError:
            return None
    version = int(text) if text.isdigit() and len(text) < 9 else 0
    if not 1 <= version <= VERSION:
        raise StoreError(
            f"the store at {path} has another version",
            why=f"it is version {text[:20].decode(errors='replace')!r}, this packhorse knows 1 to {VERSION}",
            fix="use the packhorse that made it, or choose another place for the store",
        )
    return version


def _create_directories(path: Path) -> None:
    """Makes the directories of a store, unless `path` has other things in it."""
    with map_errors(path):
        ours = {*_DIRECTORIES, *_FILES, *_OTHERS}
        others = [entry.name for entry in path.iterdir() if entry.name not in ours]
        index = path / "index.json"
        if index.exists() and index.read_bytes() != _FILES["index.json"]:
            others.append("index.json")
        if others:
            raise StoreError(
                f"{path} is not a store",
                why=f"it has no version file, and other things in it: {', '.join(sorted(others)[:5])}",
                fix="choose an empty or a new directory for the store",
            )
        path.chmod(0o700)
        for name in _DIRECTORIES:
            make_directory(path / name)
        sync_directory(path / "blobs")


def _complete(lease: Lease) -> None:
    """Makes the rest of a store, or brings an earlier version up to this; the caller holds the gate."""
    path = lease.store
    version = _read_version(path)
    if version == VERSION:
        return
    for name, content in _FILES.items():
        if not (path / name).exists():
            write_bytes(lease, path / name, content)
    with map_errors(path):
        make_directory(path / "spare")
    if version == 1:
        # Unfinished files had names of their own, and locks were files of their own.
        for pattern in ("**/.*~", "locks/*-*"):
            for file in path.glob(pattern):
                file.unlink(missing_ok=True)
    reserve_space(path)
    # The version comes last: with it the store is whole.
    write_bytes(lease, path / "version", b"%d\n" % VERSION)


_ENTRIES, _SECONDS = 100, 0.03
"""What a command that hurries removes itself: more than a small build leaves, and what does not take long."""


_ROOM, _PART = 5 << 30, 10
"""Bytes that have to be free, or the part of a small disk, for a command not to wait for what is removed."""


def _has_room(store: Path) -> bool:
    """Whether a build is likely to find enough room before what is removed meanwhile is gone."""
    disk = os.statvfs(store)
    free = disk.f_bavail * disk.f_frsize
    few_inodes = disk.f_files and disk.f_favail * _PART < disk.f_files
    return free >= min(_ROOM, disk.f_blocks * disk.f_frsize // _PART) and not few_inodes


class Store:
    """An open store. What is found or made through it stays until it is closed, whatever `gc` does."""

    def __init__(self, lease: Lease, *, frees: bool = False) -> None:
        self.path = lease.store
        self._lease = lease
        self._frees = frees
        self._tree_sync = TreeSync(lease)
        self._blobs = Blobs(lease)
        self._index = LayerIndex(lease)
        self._snapshots = LayerSnapshots(lease, self._tree_sync)
        self._images = Images(lease)
        self._left: set[Path] = set()
        self._layers = LayerStore(lease, self._blobs, self._index, self._snapshots)
        self._trees = Trees(lease, self._tree_sync, self._layers, self._snapshots)

    @classmethod
    def open(cls, path: Path, *, frees: bool = False, hurries: bool = False) -> Self:
        """Opens the store at `path`, and makes it when there is none; one that can only be read can be read.

        With `frees`, for commands that make room, it can be done also where the disk is full. With
        `hurries` what takes long to remove is removed by a process that goes on after `close`. Raises
        StoreError when it belongs to another user, has another version, or cannot be made.
        """
        lease = open_or_create(path.absolute(), frees=frees)
        lease.removal_budget = RemovalBudget(_ENTRIES, _SECONDS) if hurries else None
        return cls(lease, frees=frees)

    @property
    def meter(self) -> Meter:
        """What counts the long work of this store's command, for whoever waits for it."""
        return self._trees.meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self._trees.meter = meter

    def close(self) -> None:
        """Lets go of everything, and removes what this command has replaced, unless others need it.

        What is not finished is removed by the next `sweep`.
        """
        own = self._lease
        own.close()
        unremoved = own.removal_budget is not None and own.trash
        if own.unneeded or (unremoved and not self._left):
            # What cannot be removed now is found by `gc`, which says why.
            with suppress(StoreError, HostError):
                self._remove(own.unneeded, own.removal_budget)
        if self._frees:
            reserve_space(self.path)

    def _remove(self, unneeded: set[str], budget: RemovalBudget | None) -> None:
        own = open_trash_lease(self.path)
        own.removal_budget = budget
        try:
            gc.collect(own, only=unneeded, remove=trash)
            remove_in_background(own)
        finally:
            own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def place(self, name: str, *, check: bool = False) -> StorePlace:
        """The image called `name` (for reading also an image ID), as a `Place`.

        With `check`, for commands that bring an image, what is here of its layers is read, and replaced where
        it is damaged.
        """
        return StorePlace(
            name,
            lease=self._lease,
            images=self._images,
            blobs=self._blobs,
            layers=self._layers,
            check=check,
        )

    def find_damage(self, say: Callable[[str], None]) -> DamageReport:
        """Reads everything, removes what is damaged, and answers what that was; raises StoreError.

        `say` is told how much is read.
        """
        from packhorse.store.gc import find_damage  # for the doctor alone

        return find_damage(self.path, self._images, self._blobs, self._snapshots, self._layers, say=say)

    def images(self) -> tuple[ImageRecord, ...]:
        """Every image by name."""
        return self._images.all()

    def size(self, image: ImageRecord) -> int:
        """How long the layers of an image are, in bytes; compressed if a tar was never read."""
        total = 0
        for diff_id in image.layers:
            fact = read_record(self.path, diff_id)
            total += fact.size or (fact.blob.size if fact.blob else 0)
        return total

    def find(self, text: str) -> ImageRecord:
        """The image with a name or with the beginning of an ID; raises NotFoundError, InputError."""
        return self._images.find(text)

    def remove(self, text: str, *, force: bool = False) -> RemovedNames:
        """Takes a name away, or all of an image given by ID, as `docker rmi` does; `gc` frees the space.

        What builds of that name have kept for the next is forgotten.
        """
        removed = self._images.remove(text, force=force)
        for name in removed.untagged:
            self.forget(str(name))
        return removed

    def config(self, digest: Digest) -> bytes | None:
        """An image config by its digest, the image ID, if it is here."""
        return self._blobs.read(digest) if self._blobs.size(digest) is not None else None

    def layer(self, diff_id: Digest) -> Layer | None:
        """A layer by its diff ID, if its bytes are here in any form."""
        return self._layers.find(diff_id)

    def compressed_form(self, diff_id: Digest) -> Descriptor | None:
        """What a layer is compressed to, where that is known; its blob need not be here."""
        return self._index.get(diff_id).proven_blob

    def remember_compressed(self, diff_id: Digest, compressed: Descriptor, *, repository: str = "") -> None:
        """Notes what a layer was compressed to for a push, and to which repository (registry and all).

        The caller has compressed it, or unpacked it: what an image says of its layers is not remembered.
        Where the store has the layer in another compressed form it keeps that in mind.
        """
        found = self._layers.find(diff_id)
        here = found.descriptor if found is not None else None
        if here is not None and here.digest != compressed.digest:
            return
        self._index.update(diff_id, blob=compressed, repository=repository)

    def repositories(self, diff_id: Digest) -> tuple[str, ...]:
        """Those to which a layer was pushed as `compressed_form` says, the last first; it may be
        gone there.
        """
        return self._index.get(diff_id).repositories

    def root(self, image: Image, idmap: IdMap) -> Path:
        """The root file system of an image in the store, its ids mapped by `idmap`: read-only for everybody.

        Unpacked and merged the first time. Raises StoreError, FormatError, HostError.
        """
        return self._trees.root(image.config.diff_ids, idmap)

    def open_layers(
        self, app: str, idmap: IdMap, *, uid: int, gid: int, scratch: Path, family: str = "", like: str = ""
    ) -> OverlayLayerCache:
        """The layers of one build of `app` (any text that is the same at its next build), as a LayerCache.

        `uid` and `gid` are the CNB user's; `scratch` is a directory made by `scratch`. `like` is another app
        with the layers of which this build begins (`nearest_app`).
        """
        app_of = self._make_app(app, family, like)
        return OverlayLayerCache(*self._open_writer(app_of, idmap, uid, gid, scratch / "overlay"))

    def open_layer_copies(
        self, app: str, idmap: IdMap, *, uid: int, gid: int, scratch: Path, family: str = "", like: str = ""
    ) -> CopyLayerCache:
        """As `open_layers`, but buildpacks get plain copies of the layers instead of an overlay."""
        app_of = self._make_app(app, family, like)
        return CopyLayerCache(*self._open_writer(app_of, idmap, uid, gid, scratch / "copies"))

    def import_layer(self, layer: Layer, path: str, idmap: IdMap, *, uid: int, gid: int) -> bool:
        """Keeps a layer from elsewhere whose directory is `path`, as a build's own; False if it is none.

        Raises StoreError, and what reading the layer raises.
        """
        return import_layer(self._lease, self._snapshots, layer, LayerLocation(path, uid, gid), idmap)

    def last_build(self, app: str) -> tuple[bytes, tuple[Layer, ...]]:
        """What the last build of `app` has left for the next: its metadata, and the layers by their paths."""
        fields = read(self._cache(app)) or {}
        metadata = str(fields.get("metadata", "")).encode("utf-8", "surrogateescape")
        layers = fields.get("layers")
        found = [
            self.layer(Digest.parse(str(text)))
            for text in (layers if isinstance(layers, dict) else {}).values()
        ]
        return metadata, tuple(layer for layer in found if layer is not None)

    def nearest_app(self, app: str, family: str) -> str:
        """The app whose layers a build of `app` begins with: itself, or the last built of its family."""
        if self._cache(app).exists():
            return app
        with map_errors(self.path):
            found = list_by_time(self.path / "caches")
        for _, path in reversed(found):
            fields = read(path) or {}
            if family and fields.get("family") == family:
                return str(fields.get("app"))
        return app

    def copied_writers(self, writers: Sequence[str]) -> tuple[str, ...]:
        """Those who write to layers, of these names, that are to have copies of them."""
        return needing_copies(self.path, writers)

    def remember_copied(self, writer: str, app: str) -> None:
        """Remembers that one is to have copies, until what is kept of `app` is forgotten; StoreError."""
        remember_copies(self._lease, writer, self._cache(app).stem)

    def _make_app(self, name: str, family: str, like: str) -> CachedApp:
        return CachedApp(name, family, self._cache(name), self._cache(like or name))

    def _open_writer(
        self, app: CachedApp, idmap: IdMap, uid: int, gid: int, directory: Path
    ) -> tuple[LayerCacheWriter, Path]:
        with map_errors(directory):
            make_directory(directory)
        owner = idmap.to_outside(uid, gid)
        return LayerCacheWriter(self._lease, self._snapshots, app, uid=uid, gid=gid, owner=owner), directory

    def forget(self, app: str) -> bool:
        """Forgets what the next build of `app` could restore; False when there was nothing."""
        path = self._cache(app)
        with map_errors(path):
            there = path.exists()
            path.unlink(missing_ok=True)
        forget_copies(self._lease, path.stem)
        return there

    def caches(self) -> CacheUsage:
        """What is kept for the next builds of all apps; every file of it is looked at."""
        return measure_caches(self._lease)

    def last_uses(self) -> dict[str, float]:
        """When each app with a cache was last built, in seconds since 1970."""
        return find_last_use(self._lease)

    def remove_caches(self, apps: Iterable[str]) -> tuple[set[str], FreedSpace]:
        """Removes what is kept for these apps; answers which there were, and what that freed. StoreError."""
        found, given_up = remove_apps(self._lease, apps)
        return found, gc.collect(self._lease, only=given_up)

    def caches_beyond(self, limit: int) -> tuple[str, ...]:
        """The apps, the longest unused first, whose caches have to go for `limit` bytes to be enough."""
        return choose_removed(self._lease, limit)

    def trim(self, limit: int, *, stays: str) -> tuple[str, ...]:
        """Forgets what is kept `caches_beyond` a limit, but for the app `stays`; the disk is free
        with `close`.
        """
        gone = choose_removed(self._lease, limit, stays=stays)
        if gone:
            self._lease.note_unneeded(remove_apps(self._lease, gone)[1])
        return gone

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for one build on the store's file system, removed afterwards whoever its files belong
        to, unless it was given to `keep_scratch`.

        That it cannot be written is a StoreError also where others do that.
        """
        path = self._lease.temporary()
        with ExitStack() as stack:
            # Once more, for a command that is called off (once) while it clears away.
            stack.callback(self._remove_scratch, path)
            stack.callback(self._remove_scratch, path)
            with map_errors(path):
                make_directory(path)
            try:
                yield path
            except BaseException as error:
                self._lease.removal_budget = None  # what failed may have filled the disk
                if not isinstance(error, OSError) or not is_about(error, self.path):
                    raise
                raise make_error(error, path) from error

    def _remove_scratch(self, scratch: Path) -> None:
        if scratch not in self._left and os.path.lexists(scratch):
            with suppress(StoreError, HostError):  # then `remove_leftovers` does, or gc says why not
                trash(scratch, self._lease)

    def keep_scratch(self, scratch: Path) -> None:
        """Lets a scratch directory stay, for a person to look at, until the next `remove_leftovers`
        or `gc`.
        """
        self._left.add(scratch)

    def remove_tree(self, path: Path) -> None:
        """Removes a tree outside the store too, whoever its files belong to; raises StoreError."""
        remove(path, self._lease)

    def lock_task(self, task: str) -> AbstractContextManager[None]:
        """Holds a lock that is named by a task, against other processes; waits for it."""
        return lock_file(self.path / "locks" / task)

    def remove_leftovers(self) -> None:
        """What a command begins with that writes much: removes what commands that are over have left, killed
        or on purpose, and has the trees of earlier ones put on the disk, without waiting for it.

        A command that hurries waits for what takes long to remove only where there is little room.
        """
        # What cannot be removed is no reason not to build; `gc` says why.
        with suppress(StoreError, HostError):
            if gc.has_leftovers(self._lease):
                self._sweep()
        self._tree_sync.sync_in_background()

    def _sweep(self) -> None:
        own = open_trash_lease(self.path)
        try:
            if self._lease.removal_budget is not None and _has_room(self.path):
                own.removal_budget = RemovalBudget(_ENTRIES, _SECONDS)
                gc.sweep(own, remove=trash)
                remove_in_background(own)
            else:
                with self.meter.task("removing what earlier commands have left"):
                    gc.sweep(own)
        finally:
            own.close()

    def gc(self) -> FreedSpace:
        """Removes what no image, no cache and no running command needs; safe beside running builds.

        What earlier commands have left to processes is gone afterwards, too.
        """
        freed = gc.collect(self._lease)
        wait_for_removal(self.path)
        return freed

    def sync(self) -> None:
        """Waits until all trees are on the disk (seconds after a large build), so that a crash cannot cost
        them.
        """
        self._tree_sync.sync()

    def _cache(self, app: str) -> Path:
        return self.path / "caches" / f"{Digest.of(app.encode()).hex[:32]}.json"
