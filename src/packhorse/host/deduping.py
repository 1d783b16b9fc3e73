"""Pushes to a registry without sending a layer twice, as the store remembers pushes. Made by `host.wiring`.

The store remembers the compressed form of each pushed layer, and which repositories have it. A layer that was
pushed before, by any build, is neither read nor compressed again: the registry is asked whether it has the
layer, and if possible mounts it from another of its repositories. A layer that another program pushed under
the same name is not sent again either.
"""

from __future__ import annotations

from contextlib import suppress

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NetworkError, NotFoundError, StoreError
from packhorse.oci.compress import Compression, measure
from packhorse.oci.place import Layer
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.types import OCI_LAYERS, Descriptor
from packhorse.store.store import Store


class DedupingRegistryPlace(RegistryPlace):
    """The place of one name in a registry. Reuses the layers that the store remembers as pushed."""

    def __init__(
        self,
        reference: Reference,
        registry: Registry,
        store: Store,
        *,
        target: Target,
        compression: Compression,
    ) -> None:
        super().__init__(reference, registry, target=target, compression=compression)
        self._store = store

    def write_layer(self, layer: Layer) -> Layer:
        """Pushes a layer. For one that was pushed before, this takes one request."""
        made_here = layer.blob is None and layer.descriptor is None
        if layer.diff_id:
            layer = self._with_known_blob(layer, layer.diff_id)
        if reused := self._reuse_claimed(layer):
            return reused
        pushed = super().write_layer(layer)
        diff_id, stored = pushed.diff_id, pushed.descriptor
        # A blob that another program compressed is not remembered: it may not be the layer that its image
        # claims, and cannot be made again from the tar.
        if diff_id and stored and (made_here or self._store.compressed_form(diff_id) == stored):
            # A read-only store does not remember, which only costs time at the next push.
            with suppress(StoreError):
                self._store.remember_compressed(diff_id, stored, repository=self._reference.name)
        return pushed

    def _reuse_claimed(self, layer: Layer) -> Layer | None:
        """Reuses the layer's blob from the image that has this name now, for instance one that pack pushed.

        That image only claims that the blob is this layer. So the blob is fetched and verified once, instead
        of an upload, and then the store remembers it. Returns None if there is no such blob, or if it is
        another layer.
        """
        if layer.diff_id is None or layer.descriptor is not None:
            return None
        claimed = self._find_claim(layer.diff_id)
        if claimed is None or not self._is_present(claimed):
            return None
        stored = self._verify_claim(layer.diff_id, claimed)
        if stored is None:
            return None
        with suppress(StoreError):
            self._store.remember_compressed(layer.diff_id, stored, repository=self._reference.name)
        return super().write_layer(replace(layer, descriptor=stored))

    def _find_claim(self, diff_id: Digest) -> Descriptor | None:
        """Finds the stored form of a layer in the image under the name now; None if that lacks the layer.

        The image only claims that the blob unpacks to this layer. A form in another compression than the
        place's does not count.
        """
        found = self._find_claims().get(diff_id)
        return found if found and OCI_LAYERS.get(found.media_type) == self._compression.media_type else None

    def _verify_claim(self, diff_id: Digest, claimed: Descriptor) -> Descriptor | None:
        """Fetches and unpacks a claimed blob; returns its true descriptor, or None if it is another layer.

        None also if it cannot be fetched: then the upload succeeds, or its error tells why not.
        """
        try:
            found = measure(self._registry.blob(self._repository, claimed))
        except (FormatError, NotFoundError, NetworkError):
            return None
        return replace(claimed, media_type=found.media_type) if found.diff_id == diff_id else None

    def _with_known_blob(self, layer: Layer, diff_id: Digest) -> Layer:
        """Adds the descriptor of an earlier push, and tells the registry which repository has the blob."""
        known = self._store.compressed_form(diff_id)
        if known is None or layer.descriptor not in (None, known):
            return layer
        if layer.descriptor is None and known.media_type != self._compression.media_type:
            return layer
        for name in self._store.repositories(diff_id):
            host, _, repository = name.partition("/")
            if host == self._reference.registry and repository != self._repository:
                self._registry.remember_candidate(repository, known.digest)
                break
        return replace(layer, descriptor=known)
