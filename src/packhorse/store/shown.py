"""③ What the two ways to show kept layers to buildpacks have in common; overlay and copies are these ways."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.image.view import Layer
from packhorse.store import compare, merge
from packhorse.store.fault import faults
from packhorse.store.harvest import Counters, Harvest
from packhorse.store.kept import KeptTree
from packhorse.store.upper import Upper


class ShownLayers:
    """The layers of one build; what buildpacks write of them is in the directory `layers` of `scratch`.

    Different layers may be captured from several threads at once.
    """

    def __init__(self, harvest: Harvest, scratch: Path) -> None:
        self.harvest = harvest
        self._scratch = scratch
        self._upper = Upper(scratch / "layers")
        self._restored: dict[str, KeptTree] = {}
        self._captured: dict[str, Layer] = {}
        self._lock = threading.Lock()
        with faults(scratch):
            harvest.directory(scratch / "layers")

    @property
    def counters(self) -> Counters:
        """What was done so far, for people to read."""
        return self.harvest.counters

    @property
    def recorded(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        return self.harvest.recorded

    def read(self, writers: Sequence[str] = ()) -> bytes:
        """The metadata of the app's last build, b"" when there was none; layers are shown the same way to all
        `writers`.
        """
        return self.harvest.read()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        self.harvest.commit(metadata, layers)

    def _is_same(self, buildpack: str, name: str, below: KeptTree, *, whole: bool) -> bool:
        """Whether what is written over a layer, or in the place of the `whole` one, makes no difference."""
        with faults(below.directory), merge.directory(below.lower / buildpack) as lower:
            return self._upper.compare(
                buildpack, partial(compare.trees_equal, lower=lower, name=name, whole=whole)
            )
