"""Restores layers from a cache directory or a cache image into `/layers`, and makes layers of what is there.

`InPlaceLayerCache` is the `LayerCache` port of a lifecycle inside a builder, where a layer is a plain
directory. It unpacks a cached layer beside its place, compares its digest, and renames it, so that no layer
is ever half there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.base.tree import TreeEdit, TreeView
from packhorse.errors import FormatError, NetworkError, TreeError
from packhorse.host.cache_directory import CacheDirectory
from packhorse.host.cache_image import CacheImage
from packhorse.lifecycle.export import directory_layer
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import Observer
from packhorse.oci.place import Layer
from packhorse.tar.unpack import unpack
from packhorse.tar.writer import digest


class InPlaceLayerCache:
    """The layers below `inputs.layers` in `tree`. `kept` has those of the last build; None keeps nothing.

    `target` is what a new cache image is for.
    """

    def __init__(
        self,
        kept: CacheDirectory | CacheImage | None,
        inputs: Inputs,
        tree: TreeEdit,
        target: Target,
        observer: Observer,
    ) -> None:
        self._kept = kept
        self._inputs = inputs
        self._tree = tree
        self._target = target
        self._observer = observer
        self._restored: dict[str, Digest] = {}
        self._captured: dict[Digest, Layer] = {}

    def read(self, writers: Sequence[str]) -> bytes:
        """The metadata of the last build's layers; see `lifecycle.ports.LayerCache`."""
        return self._kept.metadata if self._kept is not None else b""

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Unpacks a cached layer to `path`, if its bytes have the digest; else says so and returns False."""
        layer = self._kept.layer(diff_id) if self._kept is not None else None
        if self._kept is None or layer is None:
            return False
        work = Path(tempfile.mkdtemp(prefix=".restore-", dir=self._inputs.layers))
        try:
            problem = _unpack(layer, diff_id, work, path)
            if not problem:
                self._tree.remove(path)
                self._tree.mkdir(path.rpartition("/")[0])
                self._tree.rename(f"{work}{path}", path)
        except NetworkError as error:
            self._observer.say(f"{path} cannot be fetched from the cache: {error.what}")
            return False
        except (FormatError, TreeError) as error:
            problem = error.what
        finally:
            self._tree.remove(str(work))
        self._kept.note_fetched(diff_id, is_intact=not problem)
        if problem:
            self._observer.say(f"{path} is not restored from the cache: {problem}")
            return False
        self._restored[path] = diff_id
        return True

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """Reads the directory at `path` once, for its digest; see `lifecycle.ports.LayerCache`."""
        layer = directory_layer(self._inputs, view, path)
        diff_id, size = digest(layer.tar())
        layer = replace(layer, diff_id=diff_id, size=size)
        self._captured[diff_id] = layer
        return layer, self._restored.get(path) == diff_id

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Writes the layers to the cache. A cache that cannot be written is reported, and is no error."""
        if self._kept is not None:
            found = {diff_id: self._captured[diff_id] for diff_id in layers.values()}
            self._kept.write(metadata, tuple(found.values()), self._target)


def _unpack(layer: Layer, diff_id: Digest, work: Path, path: str) -> str:
    """Unpacks a layer below `work`. Returns why it is not the layer of `path`, "" if it is."""
    hasher = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for chunk in layer.tar():
            hasher.update(chunk)
            yield chunk

    result = unpack(chunks(), work, owner=False)
    if hasher.hexdigest() != diff_id.hex:
        return f"its digest there is not {diff_id}"
    if result.whiteouts or result.opaque or result.skipped:
        return "it has files that a plain directory cannot have"
    above = work
    for name in path.strip("/").split("/"):
        if [entry.name for entry in above.iterdir()] != [name]:
            return "it has files of another directory"
        above /= name
    return "" if above.is_dir() and not above.is_symlink() else "it is not a directory"
