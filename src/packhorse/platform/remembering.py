"""A registry as a place that remembers what it was pushed: each layer's compressed form, and who has it.

So a layer that was pushed before, by whatever build, is neither read nor compressed again: the registry is
asked whether it has it, and takes it from another of its repositories where it can. A layer that another
program pushed under the same name is not sent again either. Made in `platform.wiring`.
"""

from __future__ import annotations

from contextlib import suppress

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import StoreError
from packhorse.image.place import Receipt
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.place import RegistryPlace
from packhorse.image.registry.upload import is_blob_present
from packhorse.image.view import Image, Layer
from packhorse.store.store import Store


class DedupingRegistryTarget:
    """The image with one name in a registry, with the memory of a store.

    Layers that have no stored form are compressed to `media_type` there.
    """

    def __init__(
        self, place: RegistryPlace, reference: Reference, registry: Registry, store: Store, *, media_type: str
    ) -> None:
        self._place = place
        self._reference = reference
        self._registry = registry
        self._store = store
        self._media_type = media_type

    def read(self) -> Image:
        """The image under this name, as the registry has it."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer; one that was pushed before costs one question."""
        made_here = layer.blob is None and layer.descriptor is None
        if layer.diff_id:
            layer = self._with_known_blob(layer, layer.diff_id)
        if reused := self._reuse_claimed(layer):
            return reused
        brought = self._place.write_layer(layer)
        diff_id, stored = brought.diff_id, brought.descriptor
        # What others have compressed may be another layer than their image says, and is nothing that could
        # be made again of a tar.
        if diff_id and stored and (made_here or self._store.compressed_form(diff_id) == stored):
            # A store that can only be read forgets; nothing but time is lost.
            with suppress(StoreError):
                self._store.remember_compressed(diff_id, stored, repository=self._reference.name)
        return brought

    def write_image(self, image: Image) -> Receipt:
        """Makes the image appear under this name."""
        return self._place.write_image(image)

    def _reuse_claimed(self, layer: Layer) -> Layer | None:
        """A layer in the form that the image under this name has it in, such as one that pack pushed.

        That image only claims that it is this layer. So the blob is fetched and unpacked once, in place of an
        upload; then the store remembers it. Where it is another layer, the image is published without it.
        """
        if layer.diff_id is None or layer.descriptor is not None:
            return None
        claimed = self._place.find_claim(layer.diff_id)
        if claimed is None or not is_blob_present(self._registry, self._reference.repository, claimed):
            return None
        stored = self._place.verify_claim(layer.diff_id, claimed)
        if stored is None:
            return None
        with suppress(StoreError):
            self._store.remember_compressed(layer.diff_id, stored, repository=self._reference.name)
        return self._place.write_layer(replace(layer, descriptor=stored))

    def _with_known_blob(self, layer: Layer, diff_id: Digest) -> Layer:
        """The layer with the descriptor that it had before; the registry is told who there has it."""
        known = self._store.compressed_form(diff_id)
        if known is None or layer.descriptor not in (None, known):
            return layer
        if layer.descriptor is None and known.media_type != self._media_type:
            return layer
        for name in self._store.repositories(diff_id):
            host, _, repository = name.partition("/")
            if host == self._reference.registry and repository != self._reference.repository:
                self._registry.remember_candidate(repository, known.digest)
                break
        return replace(layer, descriptor=known)
