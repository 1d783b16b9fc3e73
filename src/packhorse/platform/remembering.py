"""A registry as a place that remembers what it was pushed: each layer's compressed form, and who has it.

So a layer that was pushed before, by whatever build, is neither read nor compressed again: the registry is
asked whether it has it, and takes it from another of its repositories where it can. Made in
`platform.wiring`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from packhorse.errors import StoreError
from packhorse.image.model import Descriptor
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.view import Image, Layer
from packhorse.store.store import Store


class Remembering:
    """The image with one name in a registry, with the memory of a store."""

    def __init__(self, place: Place, reference: Reference, registry: Registry, store: Store) -> None:
        self._place = place
        self._reference = reference
        self._registry = registry
        self._store = store

    def read(self) -> Image:
        """The image under this name, as the registry has it."""
        return self._place.read()

    def begin(self, layer: Layer) -> Layer:
        """Brings one layer; one that was pushed before costs one question."""
        known = self._store.compressed(layer.diff_id) if layer.diff_id else None
        if layer.diff_id and known:
            if layer.descriptor is None:
                layer = replace(layer, descriptor=known)
            if layer.descriptor and layer.descriptor.digest == known.digest:
                self._tell_holders(known, self._store.repositories(layer.diff_id))
        brought = self._place.begin(layer)
        if brought.diff_id and brought.descriptor:
            # A store that can only be read forgets; nothing but time is lost.
            with suppress(StoreError):
                self._store.remember(
                    brought.diff_id, brought.descriptor, repository=self._reference.name
                )
        return brought

    def commit(self, image: Image) -> Receipt:
        """Makes the image appear under this name."""
        return self._place.commit(image)

    def _tell_holders(self, blob: Descriptor, repositories: tuple[str, ...]) -> None:
        """Tells the registry which of its repositories is known to have a blob."""
        if self._registry.holder(blob.digest) is None:
            for name in repositories:
                host, _, repository = name.partition("/")
                if host == self._reference.registry:
                    self._registry.remember(repository, [blob.digest])
                    return
