"""Pushes to a registry without sending a layer twice, by what the store remembers. Made by `host.wiring`.

The store remembers the compressed form of each pushed layer, and which repositories have it. A layer that was
pushed before, by any build, is neither read nor compressed again: the registry is asked whether it has the
layer, and if possible mounts it from another of its repositories. A layer that another program pushed under
the same name is not sent again either.
"""

from __future__ import annotations

from contextlib import suppress

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import StoreError
from packhorse.oci.place import Image, Layer, Receipt
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import is_blob_present
from packhorse.store.store import Store


class DedupingRegistryTarget:
    """The Target for one name in a registry, which uses what the store remembers of pushed layers.

    Layers without a compressed form are compressed to `media_type`.
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
        """Reads the image from the registry."""
        return self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Pushes a layer; for one that was pushed before, that is one request."""
        made_here = layer.blob is None and layer.descriptor is None
        if layer.diff_id:
            layer = self._with_known_blob(layer, layer.diff_id)
        if reused := self._reuse_claimed(layer):
            return reused
        pushed = self._place.write_layer(layer)
        diff_id, stored = pushed.diff_id, pushed.descriptor
        # A blob that another program compressed is not remembered: it may not be the layer that its image
        # says, and cannot be made again from the tar.
        if diff_id and stored and (made_here or self._store.compressed_form(diff_id) == stored):
            # A read-only store does not remember, which only costs time at the next push.
            with suppress(StoreError):
                self._store.remember_compressed(diff_id, stored, repository=self._reference.name)
        return pushed

    def write_image(self, image: Image) -> Receipt:
        """Writes the image under this name."""
        return self._place.write_image(image)

    def _reuse_claimed(self, layer: Layer) -> Layer | None:
        """Reuses the layer's blob from the image that has this name now, for instance one that pack pushed.

        That image only claims that the blob is this layer. So the blob is fetched and verified once, instead
        of an upload, and then the store remembers it. Returns None if there is no such blob, or if it is
        another layer.
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
        """Adds the descriptor of an earlier push, and tells the registry which repository has the blob."""
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
