"""A name in a registry that has mirrors: read from the first that has it, written to the registry itself.

Called by `platform.wiring`.
"""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.errors import NetworkError, NotFoundError
from packhorse.image.place import Place, Receipt
from packhorse.image.view import Image, Layer


class Mirrored:
    """The image with one name; `mirrors` are asked for it in their order, then the registry is."""

    def __init__(self, place: Place, mirrors: Sequence[Place]) -> None:
        self._place = place
        self._mirrors = mirrors

    def read(self) -> Image:
        """The image under this name; raises what the registry itself has raised, if nobody has it."""
        for mirror in self._mirrors:
            try:
                return mirror.read()
            except (NetworkError, NotFoundError):
                continue  # a mirror is there to be asked, not to be relied on
        return self._place.read()

    def begin(self, layer: Layer) -> Layer:
        """Brings one layer to the registry itself."""
        return self._place.begin(layer)

    def commit(self, image: Image) -> Receipt:
        """Makes the image appear in the registry itself."""
        return self._place.commit(image)
