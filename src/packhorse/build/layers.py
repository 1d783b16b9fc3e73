"""Adapts what the store keeps to the lifecycle's ports, for one build: layers, cache image, application.

`BuildLayers` is the `LayerCache`: layers below an overlay, or plain copies for buildpacks that fail on one
(`lifecycle.build` detects those by their output). `HostAppLayerCache` is the `AppLayerCache`: it recognizes
an application that did not change, so that it is neither read nor packed again.

Made in `build.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Mount, Overlay
from packhorse.base.tree import TreeView
from packhorse.errors import NetworkError
from packhorse.fs import overlay
from packhorse.fs.compare import upperdir_digest
from packhorse.fs.views import OverlayView
from packhorse.host.cache_image import CacheImage
from packhorse.lifecycle.ports import Observer
from packhorse.linux.syscalls import filesystem_type
from packhorse.linux.userns import IdMap
from packhorse.oci.place import Layer
from packhorse.source.files import SourceScan
from packhorse.store.build_layers import CopyLayerCache, OverlayLayerCache
from packhorse.store.layer_cache import LayerCacheWriter, LayerCounters
from packhorse.store.store import Store
from packhorse.tar.slices import Pieces

if TYPE_CHECKING:
    from packhorse.host.cache_directory import CacheDirectory


class HostAppLayerCache:
    """Recognizes an application by two digests: of the source, and of what buildpacks wrote over it.

    The source's digest is made of the lstat(2) fields of every file (`source.files`). The changes are new in
    each build, so their digest is made of their bytes (`fs.compare`).

    `scan` returns the scan of the source, without a stamp if a change could pass unseen. `overlay` returns
    the mount of the application, with the source as its lowest directory, or None if the application is a
    copy. Both are functions, and `layers` is read late, because the answers are known only during the build.
    """

    def __init__(
        self,
        scan: Callable[[], SourceScan],
        overlay: Callable[[], Overlay | None],
        layers: BuildLayers | OverlayLayerCache,
    ) -> None:
        self._scan = scan
        self._overlay = overlay
        self._layers = layers
        self._changes: str | None = None
        self._pieces: Pieces | None = None

    def get(self, terms: str) -> tuple[Digest, ...]:
        """The slices of the same application; see `lifecycle.ports.AppLayerCache`."""
        key = self._key(terms)
        return self._layers.writer.slices(key) if key else ()

    @contextmanager
    def open(self, tree: TreeView, terms: str | None) -> Iterator[tuple[TreeView, Pieces | None]]:
        """Reads the overlay's directories directly; see `lifecycle.ports.AppLayerCache`."""
        overlay = self._overlay()
        if overlay is None or overlay.upper is None:
            yield tree, None
            return
        with (
            OverlayView((*overlay.lowers, overlay.upper), overlay.target) as view,
            nullcontext(None) if terms is None else self._layers.writer.former_slice(terms) as former,
        ):
            found = self._scan()
            # With files of several owners, the lowest directory is a copy, which has stamps of its own.
            stamps = found.directory_stamps if found.has_one_owner else {}
            self._pieces = Pieces(stamps, view.is_lowest, former)
            yield view, self._pieces

    def put(self, terms: str, slices: Sequence[Digest]) -> None:
        """Records the slices, and the pieces that `open` has made, for the next build."""
        self._layers.writer.remember_slices(self._key(terms), slices)
        if self._pieces is not None and self._pieces.made:
            self._layers.writer.remember_pieces(slices[-1], terms, self._pieces.made)

    def _key(self, terms: str) -> str:
        stamp = self._scan().stamp
        if self._changes is None:  # no buildpack runs any more, so this does not change
            overlay = self._overlay() if stamp else None
            self._changes = upperdir_digest(overlay.upper) if overlay and overlay.upper else ""
        return Digest.of("\0".join((stamp, self._changes, terms)).encode()).hex if self._changes else ""


_UNABLE = {
    0x794C7630: "an overlay itself, as a container's is",
    0x6969: "NFS",
    0xFF534D42: "SMB",
    0xFE534D42: "SMB",
    0x517B: "SMB",
    0x01021997: "9p",
    0x65735546: "FUSE",
    0xF15F: "eCryptfs",
}
"""File systems, by their statfs(2) type, that cannot hold the upper directory of an overlay."""


def overlay_obstacle(directory: Path) -> str:
    """The directory's file system, if it cannot hold the upper directory of an overlay; else ""."""
    with overlay.open_directory(directory) as descriptor:
        return _UNABLE.get(filesystem_type(descriptor), "")


def supports_overlays(store: Path, observer: Observer) -> bool:
    """Whether the store's file system can hold the upper directory of an overlay; says so if it cannot."""
    kind = overlay_obstacle(store)
    if kind:
        observer.say(
            f"the file system of the store is {kind}, which takes no overlays: this build uses plain copies"
        )
    return not kind


@dataclass(frozen=True, slots=True)
class LayersScope:
    """Says which kept layers a build uses: those of `app`, or at the first build of `app` those of `like`.

    `family` is the repository that `app` is a tag of. `uid` and `gid` are the CNB user's ids in the sandbox,
    and `idmap` maps them to this machine's. The build writes to `scratch`.
    """

    app: str
    family: str
    like: str
    idmap: IdMap
    uid: int
    gid: int
    scratch: Path


class BuildLayers:
    """The LayerCache of a build: below an overlay, or as copies.

    The layers are copies if `copied` is set, or if a buildpack of the build is one of `copied_buildpacks`
    (`<id>@<version>`). `cache_image` has precedence over what this store keeps; its layers are fetched into
    the store.
    """

    def __init__(
        self,
        store: Store,
        scope: LayersScope,
        observer: Observer,
        *,
        copied: bool,
        copied_buildpacks: Sequence[str] = (),
        cache_image: CacheImage | CacheDirectory | None = None,
    ) -> None:
        self._store = store
        self._scope = scope
        self._observer = observer
        self._copied_buildpacks = copied_buildpacks
        self._cache_image = cache_image
        self._cache = self._open(copied=copied)

    def _open(self, *, copied: bool) -> OverlayLayerCache | CopyLayerCache:
        scope = self._scope
        open_cache = self._store.open_layer_copies if copied else self._store.open_layers
        return open_cache(
            scope.app,
            scope.idmap,
            uid=scope.uid,
            gid=scope.gid,
            scratch=scope.scratch,
            family=scope.family,
            like=scope.like,
        )

    @property
    def copied(self) -> bool:
        """Whether buildpacks get copies. Final once `read` was called."""
        return self._cache.copied

    @property
    def writer(self) -> LayerCacheWriter:
        """The writer of this build's layers. Final once `read` was called."""
        return self._cache.writer

    @property
    def counters(self) -> LayerCounters:
        """What the layers have cost so far, for the user."""
        return self._cache.counters

    @property
    def last_build_time(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        return self._cache.last_build_time

    def mounts(self) -> Sequence[Mount]:
        """The mount of `/layers` for the next step."""
        return self._cache.mounts()

    def read(self, writers: Sequence[str]) -> bytes:
        """The metadata of the last `commit`. Switches to copies if one of `writers` needs them."""
        known = [writer for writer in writers if writer in self._copied_buildpacks]
        if known and not self.copied:
            self._observer.say(
                f"{', '.join(known)} failed on an overlay before: this build uses plain copies"
            )
            self._cache = self._open(copied=True)
        metadata = self._cache_image.metadata if self._cache_image else b""
        return metadata or self._cache.read(writers)

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path`, fetched from the cache image if the store lacks it."""
        return self._cache.restore(path, diff_id) or (
            self._fetch(path, diff_id) and self._cache.restore(path, diff_id)
        )

    def _fetch(self, path: str, diff_id: Digest) -> bool:
        layer = self._cache_image.layer(diff_id) if self._cache_image else None
        if self._cache_image is None or layer is None:
            return False
        scope = self._scope
        try:
            is_intact = self._store.import_layer(layer, path, scope.idmap, uid=scope.uid, gid=scope.gid)
        except NetworkError as error:
            self._observer.say(f"{path} cannot be fetched from the cache: {error.what}")
            return False
        self._cache_image.note_fetched(diff_id, is_intact=is_intact)
        if not is_intact:
            self._observer.say(f"{path} is not restored from the cache: its digest there is not {diff_id}")
        return is_intact

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """Returns the layer at `path` as it is now, and whether it equals the restored one."""
        return self._cache.capture(view, path)

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the next build may restore."""
        self._cache.commit(metadata, layers)
