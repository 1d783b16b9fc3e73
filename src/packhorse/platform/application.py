"""The AppMemory of a build on a host: an application that did not change is neither read nor packed again.

It is what the source is and what buildpacks wrote over it. The first is told by what lstat(2) says of every
file (`source.app`), the second, which every build makes anew, by its bytes (`store.written`). Called by
export as a port; made in `platform.build`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.store import written
from packhorse.store.harvest import Harvest


class Application:
    """`stamp` is the source's, empty where it has none; `upper` tells where what is written over it is, None
    for a build that has no such place.
    """

    def __init__(self, stamp: str, upper: Callable[[], Path | None], harvest: Callable[[], Harvest]) -> None:
        self._stamp = stamp
        self._upper = upper
        self._harvest = harvest
        self._over: str | None = None

    def recall(self, terms: str) -> tuple[Digest, ...]:
        """What it became; see `lifecycle.ports.AppMemory`."""
        key = self._key(terms)
        return self._harvest().slices(key) if key else ()

    def note(self, terms: str, slices: Sequence[Digest]) -> None:
        """Has it known again at the next build that is committed."""
        key = self._key(terms)
        if key:
            self._harvest().remember_slices(key, slices)

    def _key(self, terms: str) -> str:
        if self._over is None:  # by now all steps are over
            upper = self._upper() if self._stamp else None
            self._over = written.digest(upper) if upper is not None else ""
        return Digest.of("\0".join((self._stamp, self._over, terms)).encode()).hex if self._over else ""
