"""Restores layers from a cache directory or a cache image into `/layers`, and makes layers of what is there.

`InPlaceLayerCache` is the `LayerCache` port of a lifecycle inside a builder, where a layer is a plain
directory. It unpacks a cached layer beside its place, compares its digest, and renames it, so that no layer
is ever half there.

A restored layer that nobody wrote to is not read again: `lstat(2)` of all its files is as it was. An exporter
that is a process of its own finds that in a file which the restorer leaves below `/layers`. A buildpack could
forge the file, and would export the restored layer in place of its own files.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.base.tree import TreeEdit, TreeView
from packhorse.errors import FormatError, NetworkError, TreeError
from packhorse.fs.copy import fingerprint, wait_for_clock_tick
from packhorse.fs.overlay import open_directory
from packhorse.host.cache_directory import CacheDirectory
from packhorse.host.cache_image import CacheImage
from packhorse.lifecycle.export import directory_layer
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import Observer
from packhorse.oci.place import Layer
from packhorse.tar.unpack import unpack
from packhorse.tar.writer import digest

MARKS = ".restored.json"
"""The file below the layers directory with the marks of restored layers."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a layer was restored: its diff ID, the size of its tar, and a digest of its files' lstat(2)."""

    diff_id: Digest
    size: int
    files: str


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
        self._marks: dict[str, Mark] = {}
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
            unpacked = _Unpacked(layer, work)
            problem = unpacked.find_problem(diff_id, path)
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
        self._marks[path] = Mark(diff_id, unpacked.size, "")
        return True

    def mark_restored(self) -> bytes:
        """Notes how the restored layers look now; returns that for `read_marks` in another process.

        Called when nothing more is written to them, and before a buildpack runs. Raises TreeError.
        """
        latest = 0
        for path, mark in self._marks.items():
            files, changed = _fingerprint(path)
            self._marks[path] = replace(mark, files=files)
            latest = max(latest, changed)
        with suppress(OSError):
            wait_for_clock_tick(Path(self._inputs.layers), latest)
        fields = {path: [str(mark.diff_id), mark.size, mark.files] for path, mark in self._marks.items()}
        return json.dumps(fields).encode()

    def read_marks(self, data: bytes) -> None:
        """Reads the marks of `mark_restored`. Anything else counts as no mark."""
        with suppress(ValueError, AttributeError, FormatError):
            for path, (diff_id, size, digest) in json.loads(data).items():
                self._marks[str(path)] = Mark(Digest.parse(str(diff_id)), int(size), str(digest))

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """Reads the directory at `path` once, for its digest; see `lifecycle.ports.LayerCache`.

        Does not read a restored layer that nobody wrote to.
        """
        layer = directory_layer(self._inputs, view, path)
        mark = self._marks.get(path)
        if mark is not None and mark.files and mark.files == _fingerprint(path)[0]:
            layer = replace(layer, diff_id=mark.diff_id, size=mark.size)
        else:
            diff_id, size = digest(layer.tar())
            layer = replace(layer, diff_id=diff_id, size=size)
        assert layer.diff_id is not None  # both branches set it
        self._captured[layer.diff_id] = layer
        return layer, mark is not None and mark.diff_id == layer.diff_id

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Writes the layers to the cache. A cache that cannot be written is reported, and is no error."""
        if self._kept is not None:
            found = {diff_id: self._captured[diff_id] for diff_id in layers.values()}
            self._kept.write(metadata, tuple(found.values()), self._target)


def _fingerprint(path: str) -> tuple[str, int]:
    """The digest of a layer's lstat(2) numbers and their latest time; "" if it cannot be read."""
    above, _, name = path.rpartition("/")
    try:
        with open_directory(Path(above)) as directory:
            return fingerprint(directory, name)
    except (OSError, TreeError):
        return "", 0


class _Unpacked:
    """A layer that was unpacked below the directory `work`. `size` is that of its tar, in bytes."""

    def __init__(self, layer: Layer, work: Path) -> None:
        """Raises FormatError, NetworkError and HostError."""
        self.size = 0
        self._hasher = hashlib.sha256()
        self._work = work
        self._result = unpack(self._chunks(layer), work, owner=False)

    def _chunks(self, layer: Layer) -> Iterator[bytes]:
        for chunk in layer.tar():
            self._hasher.update(chunk)
            self.size += len(chunk)
            yield chunk

    def find_problem(self, diff_id: Digest, path: str) -> str:
        """Says why it is not the layer of `path` with this diff ID; "" if it is."""
        result = self._result
        if self._hasher.hexdigest() != diff_id.hex:
            return f"its digest there is not {diff_id}"
        if result.whiteouts or result.opaque or result.skipped:
            return "it has files that a plain directory cannot have"
        above = self._work
        for name in path.strip("/").split("/"):
            if [entry.name for entry in above.iterdir()] != [name]:
                return "it has files of another directory"
            above /= name
        return "" if above.is_dir() and not above.is_symlink() else "it is not a directory"
