"""Keeps layers of builds in a cache image, in the form in which the Go lifecycle keeps them in a registry.

So a machine whose store is empty, as in CI, begins with the layers of the last build, and pack can use the
image too. `build.layers` and `phases.layer_cache` read it.
"""

from __future__ import annotations

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.lifecycle.inputs import EPOCH_TEXT
from packhorse.lifecycle.ports import Observer
from packhorse.oci.mutate import add_layers, edit_config, empty_config
from packhorse.oci.place import Image, Layer, Place, push_image
from packhorse.oci.types import Config, History

LABEL = "io.buildpacks.lifecycle.cache.metadata"

_NOTHING = bytes(1024)
"""The only layer of an empty cache image, as in the reference: registries refuse an image without layers."""


class CacheImage:
    """The cache image `name` at a place. An image that cannot be read is reported and counts as empty.

    What the image claims about its layers is not trusted: a layer counts only after it was fetched and its
    diff ID was verified. A layer that the store has is not fetched, and one that the registry has is not
    sent.
    """

    def __init__(self, place: Place, name: str, observer: Observer | None) -> None:
        self._place = place
        self._name = name
        self._observer = observer
        self._image: Image | None = None
        self._read = False
        self._fetched: dict[Digest, bool] = {}

    @property
    def metadata(self) -> bytes:
        """The metadata of the kept layers; b"" if there is none."""
        image = self._read_image()
        return b"" if image is None else image.config.labels.get(LABEL, "").encode("utf-8", "surrogateescape")

    def require_cache(self) -> None:
        """Raises InputError if the name belongs to an image that is no cache."""
        image = self._read_image()
        if image is not None and LABEL not in image.config.labels:
            raise InputError(
                f"{self._name} is an image, and no cache",
                why="it does not have the label of a cache, and the new cache would replace it",
                fix="name another for --cache-image, or remove that image first",
            )

    def layer(self, diff_id: Digest) -> Layer | None:
        """The layer with a diff ID, if the image claims to have it."""
        image = self._read_image()
        layers = image.layers if image is not None else ()
        return next((layer for layer in layers if layer.diff_id == diff_id), None)

    def note_fetched(self, diff_id: Digest, *, is_intact: bool) -> None:
        """Records whether a fetched layer has the diff ID that the image claims."""
        self._fetched[diff_id] = is_intact

    def write(self, metadata: bytes, layers: tuple[Layer, ...], target: Target) -> bool:
        """Writes the layers of a build, unless the image has them already.

        Returns False, and says so, if the image cannot be written. A layer that was fetched from the image
        keeps its compressed form.
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
            self._report("is not written", error)
            return False
        return True

    def _same_layer(self, layer: Layer) -> Layer | None:
        """The image's own form of the layer, if it was fetched and verified."""
        return self.layer(layer.diff_id) if layer.diff_id and self._fetched.get(layer.diff_id) else None

    def _read_image(self) -> Image | None:
        if not self._read:
            self._read = True
            try:
                self._image = self._place.read()
            except NotFoundError:
                pass
            except (NetworkError, FormatError) as error:
                self._report("cannot be read", error)
        return self._image

    def _report(self, problem: str, error: PackhorseError) -> None:
        if self._observer is not None:
            why = f" ({error.why.splitlines()[0]})" if error.why else ""
            self._observer.say(f"the cache image {self._name} {problem}: {error.what}{why}")


def _config(metadata: bytes, layers: list[Layer], target: Target) -> Config:
    added = [(layer.diff_id, History()) for layer in layers if layer.diff_id]
    config = add_layers(empty_config(target), added, created=EPOCH_TEXT, keep_history=True)
    return edit_config(config, labels={LABEL: metadata.decode("utf-8", "surrogateescape")})
