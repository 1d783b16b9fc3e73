"""③ What the two ways to show kept layers to buildpacks have in common; overlay and copies are these ways."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.image.view import Layer
from packhorse.store import compare, merge
from packhorse.store.fault import map_errors
from packhorse.store.harvest import LayerCacheWriter, LayerCounters
from packhorse.store.kept import Snapshot
from packhorse.store.upper import Upper


class MountedLayerCache:
    """The layers of one build; what buildpacks write of them is in the directory `layers` of `scratch`.

    Different layers may be captured from several threads at once.
    """

    def __init__(self, writer: LayerCacheWriter, scratch: Path) -> None:
        self.writer = writer
        self._scratch = scratch
        self._upper = Upper(scratch / "layers")
        self._restored: dict[str, Snapshot] = {}
        self._captured: dict[str, Layer] = {}
        self._lock = threading.Lock()
        with map_errors(scratch):
            writer.make_directory(scratch / "layers")

    @property
    def counters(self) -> LayerCounters:
        """What was done so far, for people to read."""
        return self.writer.counters

    @property
    def last_build_time(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        return self.writer.last_build_time

    def read(self, writers: Sequence[str] = ()) -> bytes:
        """The metadata of the app's last build, b"" when there was none; layers are shown the same way to all
        `writers`.
        """
        return self.writer.read()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        self.writer.commit(metadata, layers)

    def _is_unchanged(self, buildpack: str, name: str, below: Snapshot, *, whole: bool) -> bool:
        """Whether what is written over a layer, or in the place of the `whole` one, makes no difference."""
        with map_errors(below.directory), merge.open_directory(below.lower / buildpack) as lower:
            return self._upper.compare(
                buildpack, partial(compare.trees_equal, lower=lower, name=name, whole=whole)
            )
