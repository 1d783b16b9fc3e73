"""Reads and writes one named image of the store, as a `Place` of `oci.place`. `Store.place` makes it."""

from __future__ import annotations

from datetime import UTC, datetime

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.place import Image, Layer, Receipt, layer_ids, make_manifest
from packhorse.oci.reference import DEFAULT_TAG, Reference
from packhorse.oci.types import OCI_LAYERS, Config, Descriptor, Manifest, MediaType
from packhorse.store import gc
from packhorse.store.blobs import Blobs
from packhorse.store.images import ImageRecord, Images
from packhorse.store.layers import LayerStore
from packhorse.store.leases import Lease


class StorePlace:
    """The image with one name in the store. `read` also takes an image ID, or the beginning of one."""

    def __init__(
        self,
        name: str,
        *,
        lease: Lease,
        images: Images,
        blobs: Blobs,
        layers: LayerStore,
        check: bool = False,
    ) -> None:
        """With `check`, writing reads the layers that are here, and replaces damaged ones."""
        self._name = name
        self._check = check
        self._lease = lease
        self._images = images
        self._blobs = blobs
        self._layers = layers

    def read(self) -> Image:
        """The image under this name. Raises NotFoundError, and FormatError if a part of it is missing.

        Raises NotFoundError also if an earlier version gave a name with a digest to an image that is not
        known to have that digest.
        """
        while True:
            record = self._images.find(self._name)
            if not record.has_right_digest:
                raise NotFoundError(
                    f"no image {self._name!r} in the store",
                    why=f"the image of that name there, {record.id}, is not known to have that digest",
                    fix=f"bring it from its registry: packhorse copy docker://{record.name} {record.name}",
                )
            try:
                return self._read(record)
            except FormatError:
                # Another command may have given the name to another image, and removed this one: read again.
                if self._images.find(self._name) == record:
                    raise

    def _read(self, record: ImageRecord) -> Image:
        config = Config.parse(self._read_bytes(record, record.id))
        manifest = None
        if record.manifest is not None:
            manifest = Manifest.parse(
                self._read_bytes(record, record.manifest.digest), record.manifest.media_type
            )
        stored: tuple[Descriptor | None, ...] = (None,) * len(config.diff_ids)
        if manifest is not None and len(manifest.layers) == len(config.diff_ids):
            stored = manifest.layers
        layers = []
        for diff_id, descriptor in zip(config.diff_ids, stored, strict=True):
            layer = self._layers.find(diff_id, descriptor)
            if layer is None and descriptor is not None:  # the store may have another compressed form
                layer = self._layers.find(diff_id)
            if layer is None:
                why = ""
                if descriptor is not None and self._blobs.size(descriptor.digest) is not None:
                    why = f"its blob {descriptor.digest} is another layer than {diff_id}"
                raise _incomplete_error(record, diff_id, why)
            layers.append(layer)
        annotations = tuple(sorted(manifest.annotations.items())) if manifest else record.annotations
        known_by = (record.name.digest,) if record.name.digest else ()
        return Image(config, tuple(layers), manifest, annotations, known_digests=known_by)

    def write_layer(self, layer: Layer) -> Layer:
        """Stores a layer, unless the store has it as a blob or as a kept tree."""
        return self._layers.add(layer, check=self._check)

    def write_image(self, image: Image) -> Receipt:
        """Stores the image's documents, and gives it this name. Its layers have to be here.

        Raises StoreError, FormatError. Raises InputError for an image ID as a name, and for a digest in the
        name that is not the image's.
        """
        name = Reference.parse(self._name)
        if name.digest is not None and not image.has_digest(name.digest):
            raise InputError(
                f"the image cannot be called {name.familiar}",
                why=f"it has another digest: {image.manifest.digest if image.manifest else image.id}",
                fix=f"leave the digest out: {name.familiar_name}:{name.tag or DEFAULT_TAG}",
            )
        brought = self._with_stored_layers(image)
        manifest = listed = None
        if brought is not None:
            manifest, listed = (
                make_manifest(brought),
                make_manifest(brought, accepts=(MediaType.OCI_MANIFEST,)),
            )
            for document in {manifest.raw, listed.raw}:
                self._blobs.put(document)
        config = self._blobs.put(image.config.raw)
        new = ImageRecord(
            name=name,
            id=config,
            target=image.config.target,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            layers=image.config.diff_ids,
            manifest=manifest.descriptor if manifest else None,
            listed=listed.descriptor if listed else None,
            annotations=() if manifest else image.annotations,
            checked=name.digest is not None,
        )
        before = self._images.set_name(new)
        if before is not None and replace(before, created=new.created) != new:
            store = self._lease.store
            self._lease.note_unneeded(gc.paths_of_image(store, before) - gc.paths_of_image(store, new))
        if manifest is None:
            return Receipt(config)
        return Receipt(config, manifest.digest, len(manifest.raw))

    def _with_stored_layers(self, image: Image) -> Image | None:
        """The image with its layers as the store has them; None unless all are here as compressed blobs.

        Only then the image gets a manifest, because `index.json` must not lead other tools to missing blobs.
        Raises FormatError if a layer is here in no form.
        """
        diff_ids = layer_ids(image)
        asked: tuple[Descriptor | None, ...] = (None,) * len(diff_ids)
        if image.manifest is not None and len(image.manifest.layers) == len(diff_ids):
            asked = image.manifest.layers
        layers = []
        for diff_id, descriptor in zip(diff_ids, asked, strict=True):
            found = self._layers.find(diff_id, descriptor)
            if descriptor is not None and (found is None or found.descriptor is None):
                found = self._layers.find(diff_id)  # the store may have another compressed form
            if found is None:
                why = f"its layer {diff_id} is not in the store"
                raise FormatError(f"the image {self._name} cannot be stored", why=why)
            layers.append(found)
        if any(layer.descriptor is None or layer.descriptor.media_type not in OCI_LAYERS for layer in layers):
            return None
        return replace(image, layers=tuple(layers))

    def _read_bytes(self, record: ImageRecord, digest: Digest) -> bytes:
        if self._blobs.size(digest) is None:
            raise _incomplete_error(record, digest)
        try:
            return self._blobs.read(digest)
        except StoreError as error:
            if self._blobs.size(digest) is None:  # it was damaged, and removed
                raise _incomplete_error(record, digest) from error
            raise


def _incomplete_error(record: ImageRecord, digest: Digest, why: str = "") -> FormatError:
    return FormatError(
        f"the image {record.name.familiar} is incomplete in the store",
        why=why or f"{digest} is missing",
        fix="bring it again: build it, or packhorse copy it from where it came",
    )
