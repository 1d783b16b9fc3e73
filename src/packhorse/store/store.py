"""The store: one directory of one user that holds images, layers and file trees.

::

    oci-layout  index.json  blobs/sha256/    an OCI layout of the complete images (blobs, images)
    images.json                              all names and their images (images)
    layers/<diff ID>.json                    facts about a layer (layers)
    layers/<diff ID>.pieces                  where the directories of an application lie in it (layers)
    trees/<map>/  roots/<map>/               unpacked layers, and merged root file systems (roots)
    kept/<owner>/  caches/<app>.json         layers for the next build, by owner (snapshots, layer_cache)
    copied.json                              applications that get copies of layers (layer_cache)
    settled.json  unsettled                  which trees are certainly on the disk (tree_sync)
    leases/  scratch/  gate  locks/          what running commands use, and unfinished files (leases)
    version  spare/                          the store's version; room reserved for commands that free space

`Store` joins the parts, and opens, creates or upgrades the directory. Commands open it through `host.wiring`.
If a command is killed at any point, the next one can use the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

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
from packhorse.store.gc import DamageReport, FreedSpace
from packhorse.store.images import ImageRecord, Images, RemovedNames
from packhorse.store.layer_cache import (
    CachedApp,
    CacheUsage,
    LayerCacheWriter,
    choose_removed,
    find_copied_writers,
    find_last_use,
    forget_copies,
    measure_caches,
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

VERSION = 2
"""The version of the store's format. Trees of version 1 are made again, or read once."""

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
    """Opens the store at `path`, or creates one, and returns a lease in it. Raises StoreError.

    With `frees` it first releases the reserved room, for commands that free space.
    """
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
        # Layers may have setuid files of this user, which other users must not be able to execute.
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
    """Reserves room, if there is some, with which commands that free space can write on a full disk."""
    for number in range(_SPARE_FILES):
        with suppress(OSError), (path / "spare" / f"{number}").open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, _SPARE_BYTES)


def _release_reserve(path: Path) -> None:
    for number in range(_SPARE_FILES):
        with suppress(OSError):
            (path / "spare" / f"{number}").unlink()


def _read_version(path: Path) -> int | None:
    """The version of a store; None if there is no store yet. Raises StoreError for an unknown version."""
    file = path / "version"
    with map_errors(file):
        try:
            text = file.read_bytes().strip()
        except FileNotFoundError:
            return None
    version = int(text) if text.isdigit() and len(text) < 9 else 0
    if not 1 <= version <= VERSION:
        raise StoreError(
            f"the store at {path} has an unknown version",
            why=f"it is version {text[:20].decode(errors='replace')!r}, this packhorse knows 1 to {VERSION}",
            fix="use the packhorse that made it, or choose another place for the store",
        )
    return version


def _create_directories(path: Path) -> None:
    """Makes the directories of a store. Raises StoreError if `path` has other files in it."""
    with map_errors(path):
        ours = {*_DIRECTORIES, *_FILES, *_OTHERS}
        others = [entry.name for entry in path.iterdir() if entry.name not in ours]
        index = path / "index.json"
        if index.exists() and index.read_bytes() != _FILES["index.json"]:
            others.append("index.json")
        if others:
            raise StoreError(
                f"{path} is not a store",
                why=f"it has no version file, but other files: {', '.join(sorted(others)[:5])}",
                fix="choose an empty or a new directory for the store",
            )
        path.chmod(0o700)
        for name in _DIRECTORIES:
            make_directory(path / name)
        sync_directory(path / "blobs")


def _complete(lease: Lease) -> None:
    """Makes the files of a new store, or upgrades an earlier version. The caller holds the gate."""
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
        # Version 1 had other names for unfinished files, and a file for each lock.
        for pattern in ("**/.*~", "locks/*-*"):
            for file in path.glob(pattern):
                file.unlink(missing_ok=True)
    reserve_space(path)
    # Write the version last: a store with a version is complete.
    write_bytes(lease, path / "version", b"%d\n" % VERSION)


_ENTRIES, _SECONDS = 100, 0.03
"""The removal budget of a command that hurries: more entries than a small build leaves behind."""


_ROOM, _PART = 5 << 30, 10
"""A command waits for removals only if fewer bytes are free, on a small disk a tenth of it."""


def _has_room(store: Path) -> bool:
    """Whether the disk has enough room for a build while a background process still removes files."""
    disk = os.statvfs(store)
    free = disk.f_bavail * disk.f_frsize
    few_inodes = disk.f_files and disk.f_favail * _PART < disk.f_files
    return free >= min(_ROOM, disk.f_blocks * disk.f_frsize // _PART) and not few_inodes


class Store:
    """An open store. `gc` keeps what was found or made through it until it is closed. A context manager."""

    def __init__(self, lease: Lease, *, frees: bool = False) -> None:
        self.path = lease.store
        self._lease = lease
        self._frees = frees
        self._tree_sync = TreeSync(lease)
        self._blobs = Blobs(lease)
        self._index = LayerIndex(lease)
        self._snapshots = LayerSnapshots(lease, self._tree_sync)
        self._images = Images(lease)
        self._kept_scratch: set[Path] = set()
        self._layers = LayerStore(lease, self._blobs, self._index, self._snapshots)
        self._trees = Trees(lease, self._tree_sync, self._layers, self._snapshots)

    @classmethod
    def open(cls, path: Path, *, frees: bool = False, hurries: bool = False) -> Self:
        """Opens the store at `path`, or creates one. A read-only store can be read.

        With `frees`, for commands that free space, it can also open a store on a full disk. With `hurries`, a
        process that outlives `close` does long removals. Raises StoreError if the store belongs to another
        user, has an unknown version, or cannot be created.
        """
        lease = open_or_create(path.absolute(), frees=frees)
        lease.removal_budget = RemovalBudget(_ENTRIES, _SECONDS) if hurries else None
        return cls(lease, frees=frees)

    @property
    def meter(self) -> Meter:
        """Reports the progress of long work in the store to the user."""
        return self._trees.meter

    @meter.setter
    def meter(self, meter: Meter) -> None:
        self._trees.meter = meter

    def close(self) -> None:
        """Ends the lease, and removes what this command has replaced, unless it is still needed.

        The next `sweep` removes unfinished files that remain.
        """
        own = self._lease
        own.close()
        unremoved = own.removal_budget is not None and own.trash
        if own.unneeded or (unremoved and not self._kept_scratch):
            # `gc` removes later what cannot be removed now, or reports why it cannot.
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

        With `check`, for commands that bring an image, writing also reads the layers that are here, and
        replaces damaged ones.
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
        """Reads the whole store, removes damaged files, and reports them. Raises StoreError.

        It calls `say` with a line about how much it reads.
        """
        return gc.find_damage(self.path, self._images, self._blobs, self._snapshots, self._layers, say=say)

    def images(self) -> tuple[ImageRecord, ...]:
        """The records of all names, sorted by name. Raises StoreError."""
        return self._images.all()

    def size(self, image: ImageRecord) -> int:
        """The bytes of an image's layers; of a layer whose tar's length is unknown, the compressed bytes."""
        total = 0
        for diff_id in image.layers:
            fact = read_record(self.path, diff_id)
            total += fact.size or (fact.blob.size if fact.blob else 0)
        return total

    def find(self, text: str) -> ImageRecord:
        """The image with a name, or with an ID that begins with `text`. Raises NotFoundError, InputError."""
        return self._images.find(text)

    def remove(self, text: str, *, force: bool = False) -> RemovedNames:
        """Removes a name, or with an ID all names of an image, as `docker rmi` does; `gc` frees the space.

        It also removes the caches of builds with these names.
        """
        removed = self._images.remove(text, force=force)
        for name in removed.untagged:
            self.forget(str(name))
        return removed

    def config(self, digest: Digest) -> bytes | None:
        """An image config by its digest, the image ID; None if it is not here."""
        return self._blobs.read(digest) if self._blobs.size(digest) is not None else None

    def layer(self, diff_id: Digest) -> Layer | None:
        """A layer by its diff ID; None if the store has it in no form."""
        return self._layers.find(diff_id)

    def compressed_form(self, diff_id: Digest) -> Descriptor | None:
        """The descriptor of a layer's compressed form, if it is known. Its blob may be missing here."""
        return self._index.get(diff_id).proven_blob

    def remember_compressed(self, diff_id: Digest, compressed: Descriptor, *, repository: str = "") -> None:
        """Records the compressed form of a layer, and the repository to which it was pushed.

        The caller has compressed or unpacked it itself; do not record the claim of an image. `repository`
        includes the registry. If the store has a blob of another compressed form, it records nothing.
        """
        found = self._layers.find(diff_id)
        here = found.descriptor if found is not None else None
        if here is not None and here.digest != compressed.digest:
            return
        self._index.update(diff_id, blob=compressed, repository=repository)

    def repositories(self, diff_id: Digest) -> tuple[str, ...]:
        """The repositories to which a layer was pushed in its `compressed_form`, the latest first.

        They may no longer have it.
        """
        return self._index.get(diff_id).repositories

    def root(self, image: Image, idmap: IdMap) -> Path:
        """The root file system of an image in the store, with owners mapped by `idmap`. Do not write to it.

        The first call for an image and a map unpacks and merges the layers. Raises StoreError, FormatError,
        HostError.
        """
        return self._trees.root(image.config.diff_ids, idmap)

    def open_layers(
        self, app: str, idmap: IdMap, *, uid: int, gid: int, scratch: Path, family: str = "", like: str = ""
    ) -> OverlayLayerCache:
        """The layers of one build of `app`, as a LayerCache on an overlay.

        `app` is any text that is the same at the app's next build. `uid` and `gid` are the CNB user's.
        `scratch` is a directory made by `scratch`. With `like`, the build begins with the layers of that app
        (`nearest_app`); apps of one `family` may do that.
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
        """Adds a layer from elsewhere, whose directory is `path`, to the kept trees.

        False if its tar is not exactly that of such a layer. Raises StoreError, and what reading the layer
        raises.
        """
        return import_layer(self._lease, self._snapshots, layer, LayerLocation(path, uid, gid), idmap)

    def last_build(self, app: str) -> tuple[bytes, tuple[Layer, ...]]:
        """The record of the last build of `app`: its metadata, and those of its layers that are here."""
        fields = read(self._cache(app)) or {}
        metadata = str(fields.get("metadata", "")).encode("utf-8", "surrogateescape")
        layers = fields.get("layers")
        found = [
            self.layer(Digest.parse(str(text)))
            for text in (layers if isinstance(layers, dict) else {}).values()
        ]
        return metadata, tuple(layer for layer in found if layer is not None)

    def nearest_app(self, app: str, family: str) -> str:
        """The app with whose layers a build of `app` begins: itself, or the last built one of its family."""
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
        """Those of the buildpacks `writers` that are known to need copies of layers."""
        return find_copied_writers(self.path, writers)

    def remember_copied(self, writer: str, app: str) -> None:
        """Records that the buildpack `writer` needs copies, as long as `app` has a cache. StoreError."""
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
        """Removes the cache of `app`; False if there was none. Raises StoreError."""
        path = self._cache(app)
        with map_errors(path):
            there = path.exists()
            path.unlink(missing_ok=True)
        forget_copies(self._lease, path.stem)
        return there

    def caches(self) -> CacheUsage:
        """The sizes of all caches; it stats every kept file. Raises StoreError."""
        return measure_caches(self._lease)

    def last_uses(self) -> dict[str, float]:
        """The time of the last build of each app with a cache, in seconds since 1970."""
        return find_last_use(self._lease)

    def remove_caches(self, apps: Iterable[str]) -> tuple[set[str], FreedSpace]:
        """Removes the caches of these apps; returns the apps found, and the space freed. StoreError."""
        found, given_up = remove_apps(self._lease, apps)
        return found, gc.collect(self._lease, only=given_up)

    def caches_beyond(self, limit: int) -> tuple[str, ...]:
        """The apps, longest unused first, whose caches to remove so that at most `limit` bytes are kept."""
        return choose_removed(self._lease, limit)

    def trim(self, limit: int, *, stays: str) -> tuple[str, ...]:
        """Removes the caches beyond a limit, but not that of the app `stays`; returns the apps.

        `close` frees the disk space.
        """
        gone = choose_removed(self._lease, limit, stays=stays)
        if gone:
            self._lease.note_unneeded(remove_apps(self._lease, gone)[1])
        return gone

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for one build on the store's file system, removed at the end of the block.

        `keep_scratch` prevents the removal. An OSError in the block that is about the store becomes a
        StoreError.
        """
        path = self._lease.temporary_path()
        with ExitStack() as stack:
            # Twice, because a cancellation (which comes once) may interrupt the first removal.
            stack.callback(self._remove_scratch, path)
            stack.callback(self._remove_scratch, path)
            with map_errors(path):
                make_directory(path)
            try:
                yield path
            except BaseException as error:
                self._lease.removal_budget = None  # the disk may be full: remove everything now
                if not isinstance(error, OSError) or not is_about(error, self.path):
                    raise
                raise make_error(error, path) from error

    def _remove_scratch(self, scratch: Path) -> None:
        if scratch not in self._kept_scratch and os.path.lexists(scratch):
            with suppress(StoreError, HostError):  # `remove_leftovers` tries again, and `gc` reports why
                trash(scratch, self._lease)

    def keep_scratch(self, scratch: Path) -> None:
        """Keeps a scratch directory, for a person to read, until the next `remove_leftovers` or `gc`."""
        self._kept_scratch.add(scratch)

    def remove_tree(self, path: Path) -> None:
        """Removes a tree in or outside the store, whoever owns its files. Raises StoreError, HostError."""
        remove(path, self._lease)

    def lock_task(self, task: str) -> AbstractContextManager[None]:
        """Waits for the lock with the name `task`, and holds it against other processes."""
        return lock_file(self.path / "locks" / task)

    def remove_leftovers(self) -> None:
        """Removes what ended commands have left behind, and starts to sync their trees.

        Call it before writing much. A command that hurries waits for long removals only if the disk has
        little room.
        """
        # A failed removal must not prevent a build; `gc` reports why it failed.
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
        """Removes what no image, cache or running command needs. Builds may run meanwhile.

        It waits for the background removals of earlier commands.
        """
        freed = gc.collect(self._lease)
        wait_for_removal(self.path)
        return freed

    def sync(self) -> None:
        """Waits until all trees are on the disk, so that a crash cannot damage them.

        After a large build this takes seconds. Raises StoreError.
        """
        self._tree_sync.sync()

    def _cache(self, app: str) -> Path:
        return self.path / "caches" / f"{Digest.of(app.encode()).hex[:32]}.json"
