"""Reads and writes images in a registry: `docker://NAME`.

`RegistryPlace` is the `Place` of one image. Reading fetches the manifest and the config; a layer streams when
somebody reads it. `RegistryName` is a name with everything under it, to copy from and to (`oci.place`), and
with what is attached to it (`oci.attached`). `host.wiring` makes both. The protocol is in `registry.client`,
`registry.push` and `registry.listing`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import IO

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, HostError, NetworkError, NotFoundError
from packhorse.oci.attached import Referrer
from packhorse.oci.compress import CHUNK, Compression, measure, stored_layer, tee, verify
from packhorse.oci.place import Chunks, Image, Layer, Receipt, make_manifest
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.listing import list_referrers, put_referrer
from packhorse.oci.registry.push import UploadLost, is_blob_present, push_blob, put_manifest, stream
from packhorse.oci.types import (
    MANIFEST_LIMIT,
    OCI_LAYERS,
    Config,
    Descriptor,
    Document,
    Index,
    Manifest,
    find_manifest,
)

_IN_MEMORY = 8 << 20  # bytes of a compressed layer above which it waits on disk for its upload


class RegistryPlace:
    """The image with one name in a registry; `target` decides where the name stands for several, and
    `compression` how a layer without a stored form gets one.
    """

    def __init__(
        self,
        reference: Reference,
        registry: Registry,
        *,
        target: Target,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self._reference = reference
        self._registry = registry
        self._repository = reference.repository
        self._target = target
        self._compression = compression
        self._claims: Mapping[Digest, Descriptor] | None = None
        self._lock = threading.Lock()

    def head(self) -> Descriptor | None:
        """The manifest or index under the name now, without reading it; None when there is none.

        Costs one request: to learn whether what was read before is still current.
        """
        return self._registry.resolve(self._repository, self._reference.identifier)

    def read(self) -> Image:
        """The image under this name for the target; raises NotFoundError, FormatError, NetworkError."""
        manifest, indexes = self._manifest()
        among = indexes[0].targets if indexes else None
        config = self._config(manifest.config)
        if len(config.diff_ids) != len(manifest.layers):
            raise FormatError(
                f"{self._reference.familiar} contradicts itself",
                why=f"its manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}",
            )
        for descriptor in manifest.layers:
            if descriptor.media_type not in OCI_LAYERS:
                raise FormatError(
                    f"{self._reference.familiar} has a layer that is not a file system",
                    why=f"its media type is {descriptor.media_type}",
                )
        self._registry.remember_blobs(self._repository, [descriptor.digest for descriptor in manifest.layers])
        layers = (
            stored_layer(
                partial(self._registry.stream, self._repository, descriptor),
                descriptor,
                diff_id,
                where=self._reference.familiar,
            )
            for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
        )
        annotations = tuple(sorted(manifest.annotations.items()))
        known_by = tuple(index.digest for index in indexes)
        return Image(config, tuple(layers), manifest, annotations, among, known_by)

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer to the repository unless it is there.

        A stored form is copied as it is. Where only its descriptor is known, from an earlier push, the
        registry is asked for it. What nobody has compressed yet is uploaded while it is.
        """
        known = layer.descriptor
        if known and known.media_type in OCI_LAYERS:
            if layer.blob:
                push_blob(self._registry, self._repository, known, layer.blob)
                return layer
            if self._is_present(known) or self._push_recompressed(layer, known):
                return replace(layer, blob=self._blob_reader(known))
        try:
            stored = stream(
                self._registry,
                self._repository,
                layer,
                self._compression,
                unless=lambda: layer.diff_id in self._find_claims(),
            )
        except UploadLost:
            stored = self._compress(layer)
        assert stored.descriptor is not None  # there is one when it was compressed
        return replace(stored, blob=self._blob_reader(stored.descriptor))

    def write_image(self, image: Image) -> Receipt:
        """Uploads config and manifest; the name changes with the last request, or not at all."""
        manifest = make_manifest(image)
        push_blob(self._registry, self._repository, manifest.config, lambda: iter([image.config.raw]))
        put_manifest(self._registry, self._repository, self._reference.identifier, manifest)
        return Receipt(image.id, manifest.digest, len(manifest.raw))

    def _is_present(self, blob: Descriptor) -> bool:
        """Whether the repository has a blob, or took it over from another just now."""
        return is_blob_present(self._registry, self._repository, blob)

    def _push_recompressed(self, layer: Layer, known: Descriptor) -> bool:
        """Uploads what a layer was compressed to before; False where it is not compressed to that now."""
        if known.media_type != self._compression.media_type:
            return False
        tar, compression = layer.tar, self._compression
        try:
            push_blob(
                self._registry,
                self._repository,
                known,
                lambda: verify(compression.chunks(tar()), known.digest, known.size),
            )
        except FormatError:
            return False
        return True

    def _compress(self, layer: Layer) -> Layer:
        """Compresses a layer before it is uploaded, so that nothing is sent that is there."""
        import tempfile  # slow to import, and few layers are kept first

        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            try:
                stored = tee(layer, spool.write, self._compression)
            except OSError as error:
                raise HostError(
                    "a compressed layer cannot be kept until its upload",
                    why=str(error),
                    fix="make room for temporary files, or set TMPDIR to a directory that has some",
                    check="disk",
                ) from error
            descriptor = stored.descriptor
            assert descriptor is not None  # tee always gives one
            push_blob(self._registry, self._repository, descriptor, lambda: _from_start(spool))
        return stored

    def _blob_reader(self, blob: Descriptor) -> Chunks:
        return partial(self._registry.blob, self._repository, blob)

    def find_claim(self, diff_id: Digest) -> Descriptor | None:
        """The stored form of a layer according to the image that has the name now; None if it has none.

        Only that image says so: nobody here has unpacked the blob. A form in another compression than the
        place's is none.
        """
        found = self._find_claims().get(diff_id)
        return found if found and OCI_LAYERS.get(found.media_type) == self._compression.media_type else None

    def verify_claim(self, diff_id: Digest, claimed: Descriptor) -> Descriptor | None:
        """Fetches a blob and unpacks it; the descriptor that it has if it is that layer, else None.

        One that cannot be fetched is none either: an upload may still work, or says why not.
        """
        try:
            found = measure(self._registry.blob(self._repository, claimed))
        except (FormatError, NotFoundError, NetworkError):
            return None
        return replace(claimed, media_type=found.media_type) if found.diff_id == diff_id else None

    def _find_claims(self) -> Mapping[Digest, Descriptor]:
        """The layers of the image under the name now, by diff ID; none where no image can be read.

        A layer that it has is not sent before its digest is known.
        """
        with self._lock:
            if self._claims is None:
                self._claims = self._read_claims()
        return self._claims

    def _read_claims(self) -> Mapping[Digest, Descriptor]:
        try:
            manifest = self._manifest()[0]
            diff_ids = self._config(manifest.config).diff_ids
        except (NetworkError, NotFoundError, FormatError):
            return {}
        if len(diff_ids) != len(manifest.layers):
            return {}
        return dict(zip(diff_ids, manifest.layers, strict=True))

    def _manifest(self) -> tuple[Manifest, tuple[Index, ...]]:
        """The manifest, and the indexes it was chosen from, the one that the name stands for first."""
        read, where = partial(self._registry.manifest, self._repository), self._reference.familiar
        root = read(self._reference.identifier)
        return find_manifest(root, self._target, lambda entry: read(str(entry.digest)), where=where)

    def _config(self, descriptor: Descriptor) -> Config:
        if descriptor.size > MANIFEST_LIMIT:
            raise FormatError(
                f"the config of {self._reference.familiar} is too large",
                why=f"{descriptor.size} bytes, at most {MANIFEST_LIMIT} are read",
            )
        return Config.parse(b"".join(self._registry.blob(self._repository, descriptor)))


def _from_start(spool: IO[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    while chunk := spool.read(CHUNK):
        yield chunk


class RegistryName:
    """One name in a registry, to read from and to write to."""

    def __init__(self, reference: Reference, registry: Registry) -> None:
        self._reference = reference
        self._registry = registry
        self._repository = reference.repository

    def root(self) -> Document:
        """What the name stands for."""
        found = self._registry.manifest(self._repository, self._reference.identifier)
        self._remember(found)
        return found

    def member(self, entry: Descriptor) -> Document:
        """What an entry of an index describes; FormatError when it has another size than that says."""
        found = self._registry.manifest(self._repository, str(entry.digest))
        if len(found.raw) != entry.size:
            raise FormatError(
                f"{entry.digest} has {len(found.raw)} bytes", why=f"its index says {entry.size}"
            )
        self._remember(found)
        return found

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry of an index describes."""
        reference = self._reference.with_digest(entry.digest)
        return RegistryPlace(reference, self._registry, target=entry.target or Target.host()).read()

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob."""
        return self._registry.stream(self._repository, blob)

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Uploads a blob unless it is there, or can be taken over from another repository; FormatError if it
        is not what it says, which a registry would notice too, and be taken for the culprit.
        """
        push_blob(self._registry, self._repository, blob, lambda: verify(chunks(), blob.digest, blob.size))

    def write_document(self, document: Document) -> None:
        """Uploads a manifest or index by its digest."""
        put_manifest(self._registry, self._repository, str(document.digest), document)

    def set_name(self, document: Document) -> None:
        """Gives it the name."""
        put_manifest(self._registry, self._repository, self._reference.identifier, document)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document of the repository as its subject."""
        return list_referrers(self._registry, self._repository, subject)

    def read_tag(self, tag: str) -> Document | None:
        """What lies under a tag of the repository."""
        try:
            return self._registry.manifest(self._repository, tag)
        except NotFoundError:
            return None

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Uploads a document that is to be found by its subject."""
        put_referrer(self._registry, self._repository, document, subject=subject)

    def write_tag(self, tag: str, document: Document) -> None:
        """Gives a document a tag of the repository."""
        put_manifest(self._registry, self._repository, tag, document)

    def _remember(self, document: Document) -> None:
        """Notes where the blobs are, for repositories that can take them over."""
        blobs = getattr(document, "blobs", [])
        self._registry.remember_blobs(self._repository, blobs)
