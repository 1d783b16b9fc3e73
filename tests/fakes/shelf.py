"""An in-memory storage of images: `Shelf().place(name)` is a Place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, NotFoundError
from packhorse.oci.place import Image, Layer, Receipt, layer_ids


@dataclass
class Shelf:
    """Images by name, and layers by diff ID. `brought` are the diff IDs of layers that were read."""

    images: dict[str, Image] = field(default_factory=dict)
    layers: dict[Digest, Layer] = field(default_factory=dict)
    brought: list[Digest] = field(default_factory=list)

    def place(self, name: str) -> OnShelf:
        """The place under a name."""
        return OnShelf(self, name)


@dataclass(frozen=True)
class OnShelf:
    """One name on a shelf."""

    shelf: Shelf
    name: str

    def read(self) -> Image:
        if self.name not in self.shelf.images:
            raise NotFoundError(f"there is no image {self.name}")
        return self.shelf.images[self.name]

    def write_layer(self, layer: Layer) -> Layer:
        if layer.diff_id in self.shelf.layers:
            return self.shelf.layers[layer.diff_id]
        data = b"".join(layer.tar())
        diff_id = Digest.of(data)
        if layer.diff_id not in (None, diff_id):
            raise FormatError("a layer is not what its digest says")
        self.shelf.brought.append(diff_id)
        return self.shelf.layers.setdefault(diff_id, Layer(lambda: iter((data,)), diff_id, len(data)))

    def write_image(self, image: Image) -> Receipt:
        layer_ids(image)
        self.shelf.images[self.name] = replace(image, manifest=None)
        return Receipt(image.id)
