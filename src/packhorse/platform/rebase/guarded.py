"""A name in a registry that is written only while it stands for the image that was read. Used by `one`.

Registries have no such request: between the question and the write somebody may still come, for a moment.
"""

from __future__ import annotations

from collections.abc import Callable

from packhorse.base.digest import Digest
from packhorse.image.place import Place, Receipt
from packhorse.image.view import Image, Layer


class Moved(Exception):
    """The name stands for another image by now; seen by nobody but who begins again."""


class Guarded:
    """A place over another; `now` is the digest that the name stands for, `before` the image that it had."""

    def __init__(self, place: Place, before: Image, now: Callable[[], Digest | None]) -> None:
        self._place = place
        self._before = before
        self._now = now

    def read(self) -> Image:
        """The image under this name."""
        return self._place.read()

    def begin(self, layer: Layer) -> Layer:
        """Brings one layer."""
        return self._place.begin(layer)

    def commit(self, image: Image) -> Receipt:
        """Gives the image this name; raises Moved if that has another image than before."""
        known = self._before.manifest.digest if self._before.manifest else None
        # An index with one image in it has another digest than that.
        if self._now() != known and self._place.read().id != self._before.id:
            raise Moved
        return self._place.commit(image)
