"""The cache of application layers of a build on a host: an application that did not change is neither read
nor packed again, and of one that did only the directories in which something has, where they lie.

It is what the source is and what buildpacks wrote over it. The first is told by what lstat(2) says of every
file (`source.survey`), the second, which every build makes anew, by its bytes (`store.compare`). Called by
export as a port; made in `build.execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from packhorse.base.digest import Digest
from packhorse.base.step import Overlay
from packhorse.base.tree import TreeView
from packhorse.layers.pieces import Pieces
from packhorse.source.survey import SourceScan
from packhorse.store import compare
from packhorse.store.harvest import LayerCacheWriter
from packhorse.store.laid import OverlayView


class HostAppLayerCache:
    """`survey` tells what is known of the source, without a stamp where it cannot be told. `overlay` tells
    what is shown as the application, the source lowest, with the directory that takes what is written over
    it; None for a build that has it otherwise.
    """

    def __init__(
        self,
        survey: Callable[[], SourceScan],
        overlay: Callable[[], Overlay | None],
        harvest: Callable[[], LayerCacheWriter],
    ) -> None:
        self._survey = survey
        self._overlay = overlay
        self._harvest = harvest
        self._changes: str | None = None
        self._pieces: Pieces | None = None

    def get(self, terms: str) -> tuple[Digest, ...]:
        """What it became; see `lifecycle.ports.AppLayerCache`."""
        key = self._key(terms)
        return self._harvest().slices(key) if key else ()

    @contextmanager
    def open(self, tree: TreeView, terms: str | None) -> Iterator[tuple[TreeView, Pieces | None]]:
        """The directories of the overlay, without its mount; see `lifecycle.ports.AppLayerCache`."""
        overlay = self._overlay()
        if overlay is None or overlay.upper is None:
            yield tree, None
            return
        harvest = self._harvest()
        with (
            OverlayView((*overlay.lowers, overlay.upper), overlay.target) as laid,
            nullcontext(None) if terms is None else harvest.former_slice(terms) as former,
        ):
            found = self._survey()
            stamps = found.directory_stamps if found.has_one_owner else {}  # else the lowest is a copy
            self._pieces = Pieces(stamps, laid.is_lowest, former)
            yield laid, self._pieces

    def put(self, terms: str, slices: Sequence[Digest]) -> None:
        """Has it, and the pieces of what `open` gave, known again at the next build that is committed."""
        self._harvest().remember_slices(self._key(terms), slices)
        if self._pieces is not None and self._pieces.made:
            self._harvest().remember_pieces(slices[-1], terms, self._pieces.made)

    def _key(self, terms: str) -> str:
        stamp = self._survey().stamp
        if self._changes is None:  # by now all steps are over
            overlay = self._overlay() if stamp else None
            self._changes = compare.upperdir_digest(overlay.upper) if overlay and overlay.upper else ""
        return Digest.of("\0".join((stamp, self._changes, terms)).encode()).hex if self._changes else ""
