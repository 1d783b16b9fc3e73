"""What builds keep, as an image in a registry: for machines whose store is empty (CI), and for pack.

The form is the Go lifecycle's: the kept layers, and a label with their metadata. A layer that this store has
is not fetched, and one that the registry has is not sent. What the image says of its layers counts only once
a layer was fetched and turned out to be that. Called by `build.previous` and `build.execute`.
"""

from __future__ import annotations

from collections.abc import Callable

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.image import edit
from packhorse.image.copy import push_image
from packhorse.image.model import Config, History
from packhorse.image.place import Place
from packhorse.image.view import Image, Layer
from packhorse.platform.compose import CREATED

LABEL = "io.buildpacks.lifecycle.cache.metadata"

_NOTHING = bytes(1024)
"""What the only layer of an empty cache image is, as the reference's: registries take none without any."""


class CacheImage:
    """A cache image, called `name`, at a place; what cannot be read of it is told to `say` and not there."""

    def __init__(self, place: Place, name: str, say: Callable[[str], None]) -> None:
        self._place = place
        self._name = name
        self._say = say
        self._image: Image | None = None
        self._read = False
        self._fetched: dict[Digest, bool] = {}

    @property
    def metadata(self) -> bytes:
        """The metadata of what is kept, b"" where there is none."""
        image = self._read_image()
        return b"" if image is None else image.config.labels.get(LABEL, "").encode("utf-8", "surrogateescape")

    def require_cache(self) -> None:
        """Raises InputError where what has the name is somebody's image, and no cache."""
        image = self._read_image()
        if image is not None and LABEL not in image.config.labels:
            raise InputError(
                f"{self._name} is an image, and no cache",
                why="it has not the label of one, and a cache would take its place",
                fix="name another for --cache-image, or remove that image first",
            )

    def layer(self, diff_id: Digest) -> Layer | None:
        """A layer that it has."""
        image = self._read_image()
        layers = image.layers if image is not None else ()
        return next((layer for layer in layers if layer.diff_id == diff_id), None)

    def note_fetched(self, diff_id: Digest, *, is_intact: bool) -> None:
        """Remembers of a layer that was fetched whether it was what the image says."""
        self._fetched[diff_id] = is_intact

    def write(self, metadata: bytes, layers: tuple[Layer, ...], target: Target) -> bool:
        """Makes it what a build has left, unless it is; that it cannot be written is said. False if so.

        A layer that was fetched from it stays there as it is compressed; others are this store's own.
        """
        nothing = Layer(lambda: iter((_NOTHING,)), Digest.of(_NOTHING), len(_NOTHING))
        known = [self._same_layer(layer) or layer for layer in layers or (nothing,) if layer.diff_id]
        broken = any(layer.diff_id and self._fetched.get(layer.diff_id) is False for layer in known)
        try:
            image = Image(_config(metadata, known, target), tuple(known))
            before = self._read_image()
            if before is None or broken or before.config.raw != image.config.raw:
                push_image(image, self._place)
        except PackhorseError as error:
            self._say(f"the cache image {self._name} is not written: {error.what}{_reason(error)}")
            return False
        return True

    def _same_layer(self, layer: Layer) -> Layer | None:
        """The layer as the image has it, if it was fetched and is that layer."""
        return self.layer(layer.diff_id) if layer.diff_id and self._fetched.get(layer.diff_id) else None

    def _read_image(self) -> Image | None:
        if not self._read:
            self._read = True
            try:
                self._image = self._place.read()
            except NotFoundError:
                pass
            except (NetworkError, FormatError) as error:
                self._say(f"the cache image {self._name} cannot be read: {error.what}{_reason(error)}")
        return self._image


def _config(metadata: bytes, layers: list[Layer], target: Target) -> Config:
    added = [(layer.diff_id, History()) for layer in layers if layer.diff_id]
    config = edit.add_layers(edit.empty_config(target), added, created=CREATED, keep_history=True)
    return edit.edit_config(config, labels={LABEL: metadata.decode("utf-8", "surrogateescape")})


def _reason(error: PackhorseError) -> str:
    return f" ({error.why.splitlines()[0]})" if error.why else ""
