"""The layers of a build, as an overlay or, for buildpacks that cannot live on one, as plain copies.

Which buildpacks those are, `lifecycle.cross_device` tells by what they print. Called by `build.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from packhorse.base.digest import Digest
from packhorse.base.step import Mount
from packhorse.base.syscalls import filesystem_type
from packhorse.base.tree import TreeView
from packhorse.errors import NetworkError
from packhorse.image.view import Layer
from packhorse.platform.cache_image import CacheImage
from packhorse.store import merge
from packhorse.store.copies import CopyLayerCache
from packhorse.store.harvest import LayerCacheWriter, LayerCounters
from packhorse.store.overlay import OverlayLayerCache

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
"""File systems (statfs(2)) that the upper directory of an overlay cannot be on."""


def overlay_obstacle(directory: Path) -> str:
    """Which file system keeps what is written over an overlay from being in a directory; empty for none."""
    with merge.open_directory(directory) as descriptor:
        return _UNABLE.get(filesystem_type(descriptor), "")


def supports_overlays(store: Path, say: Callable[[str], None]) -> bool:
    """Whether what is written over an overlay can be on the store's file system; says that it cannot."""
    kind = overlay_obstacle(store)
    if not kind:
        return True
    say(f"the file system of the store is {kind}, which takes no overlays: this build is one on plain copies")
    return False


class LayersFactory(Protocol):
    """Makes the layers of a build, as an overlay or as copies."""

    def __call__(self, *, copied: bool) -> OverlayLayerCache | CopyLayerCache:
        """Either of them."""
        ...


class BuildLayers:
    """The LayerCache of a build: an overlay, unless all is to be `copied` or its buildpacks are to have that.

    `open_layers` makes either; `choose_copied` names those of some buildpacks that are to have copies; `say`
    tells the user. What `cache_image` has goes before what is kept here; `fetch_layer` keeps a layer of it
    here too.
    """

    def __init__(
        self,
        open_layers: LayersFactory,
        *,
        choose_copied: Callable[[Sequence[str]], Sequence[str]],
        say: Callable[[str], None],
        copied: bool,
        cache_image: CacheImage | None = None,
        fetch_layer: Callable[[Layer, str], bool] = lambda layer, path: False,
    ) -> None:
        self._cache_image = cache_image
        self._fetch_layer = fetch_layer
        self._open_layers = open_layers
        self._choose_copied = choose_copied
        self._say = say
        self._cache = open_layers(copied=copied)

    @property
    def copied(self) -> bool:
        """Whether this build is one on copies; settled once `read` was called."""
        return self._cache.copied

    @property
    def writer(self) -> LayerCacheWriter:
        """Where the layers go; settled once `read` was called."""
        return self._cache.writer

    @property
    def counters(self) -> LayerCounters:
        """What was done so far, for people to read."""
        return self._cache.counters

    @property
    def last_build_time(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        return self._cache.last_build_time

    def mounts(self) -> Sequence[Mount]:
        """The mount of `/layers` for the next step."""
        return self._cache.mounts()

    def read(self, writers: Sequence[str]) -> bytes:
        """The metadata of the last `commit`; `writers` decide how layers are shown."""
        if not self.copied and (known := self._choose_copied(writers)):
            self._say(f"{', '.join(known)} cannot live on an overlay: this build is one on plain copies")
            self._cache = self._open_layers(copied=True)
        metadata = self._cache_image.metadata if self._cache_image else b""
        return metadata or self._cache.read(writers)

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path`."""
        return self._cache.restore(path, diff_id) or (
            self._fetch(path, diff_id) and self._cache.restore(path, diff_id)
        )

    def _fetch(self, path: str, diff_id: Digest) -> bool:
        layer = self._cache_image.layer(diff_id) if self._cache_image else None
        if self._cache_image is None or layer is None:
            return False
        try:
            sound = self._fetch_layer(layer, path)
        except NetworkError as error:
            self._say(f"{path} is not fetched: {error.what}")
            return False
        self._cache_image.note_fetched(diff_id, is_intact=sound)
        if not sound:
            self._say(f"{path} is not taken from the cache image: its bytes there are not {diff_id}")
        return sound

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path` as it now is, and whether it is the restored one."""
        return self._cache.capture(view, path)

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the next build may restore."""
        self._cache.commit(metadata, layers)
