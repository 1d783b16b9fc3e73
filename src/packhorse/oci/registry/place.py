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
from packhorse.oci.compress import CHUNK, Compression, stored_image, tee, verify
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

_IN_MEMORY = 8 << 20  # a larger compressed layer waits for its upload in a temporary file


class RegistryPlace:
    """The image under one name in a registry.

    `target` selects among several images under the name. `compression` is for layers without a stored form.
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
        """Returns the descriptor of the manifest or index under the name now; None if there is none.

        It needs one request, and tells whether an image that was read earlier is still current.
        """
        return self._registry.resolve(self._repository, self._reference.identifier)

    def read(self) -> Image:
        """Reads the image under this name for the target; raises NotFoundError, FormatError, NetworkError."""
        manifest, indexes = self._manifest()
        config = self._config(manifest.config)
        image = stored_image(manifest, config, self._layer_reader, where=self._reference.familiar)
        self._registry.remember_blobs(self._repository, [descriptor.digest for descriptor in manifest.layers])
        return replace(
            image,
            all_targets=indexes[0].targets if indexes else None,
            known_digests=tuple(index.digest for index in indexes),
        )

    def write_layer(self, layer: Layer) -> Layer:
        """Writes one layer to the repository unless it has it.

        A stored form is copied as it is. If only its descriptor is known, from an earlier push, packhorse
        asks the registry for the blob, or compresses the layer the same way again. Another layer is
        compressed while it is uploaded.
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
        assert stored.descriptor is not None  # `stream` and `_compress` make it
        return replace(stored, blob=self._blob_reader(stored.descriptor))

    def write_image(self, image: Image) -> Receipt:
        """Uploads config and manifest. The last request sets the name."""
        manifest = make_manifest(image)
        push_blob(self._registry, self._repository, manifest.config, lambda: iter([image.config.raw]))
        put_manifest(self._registry, self._repository, self._reference.identifier, manifest)
        return Receipt(image.id, manifest.digest, len(manifest.raw))

    def _is_present(self, blob: Descriptor) -> bool:
        """Whether the repository has a blob, or has just mounted it from another repository."""
        return is_blob_present(self._registry, self._repository, blob)

    def _push_recompressed(self, layer: Layer, known: Descriptor) -> bool:
        """Compresses and uploads a layer; returns False if that does not give the earlier push's blob."""
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
        """Compresses a layer first, then uploads its blob unless the repository has it."""
        import tempfile  # slow to import, and few layers need it

        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            try:
                stored = tee(layer, spool.write, self._compression)
            except OSError as error:
                raise HostError(
                    "a compressed layer cannot be kept until its upload",
                    why=str(error),
                    fix="free space for temporary files, or set TMPDIR to a directory that has some",
                    check="disk",
                ) from error
            descriptor = stored.descriptor
            assert descriptor is not None  # tee always gives one
            push_blob(self._registry, self._repository, descriptor, lambda: _from_start(spool))
        return stored

    def _layer_reader(self, blob: Descriptor) -> Chunks:
        return partial(self._registry.stream, self._repository, blob)  # the layer verifies its bytes

    def _blob_reader(self, blob: Descriptor) -> Chunks:
        return partial(self._registry.blob, self._repository, blob)

    def _find_claims(self) -> Mapping[Digest, Descriptor]:
        """Returns the layers of the image under the name now, by diff ID; none if it cannot be read.

        packhorse compresses such a layer before it uploads it, because the repository probably has the blob.
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
        """Reads the manifest for the target and the indexes that lead to it, beginning at the name."""
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
    """One name in a registry, with everything under it."""

    def __init__(self, reference: Reference, registry: Registry) -> None:
        self._reference = reference
        self._registry = registry
        self._repository = reference.repository

    def root(self) -> Document:
        """Reads the manifest or index under the name."""
        found = self._registry.manifest(self._repository, self._reference.identifier)
        self._remember(found)
        return found

    def member(self, entry: Descriptor) -> Document:
        """Reads the manifest or index of an index entry; raises FormatError if its size differs."""
        found = self._registry.manifest(self._repository, str(entry.digest))
        if len(found.raw) != entry.size:
            raise FormatError(
                f"{entry.digest} has {len(found.raw)} bytes", why=f"its index says {entry.size}"
            )
        self._remember(found)
        return found

    def image(self, entry: Descriptor) -> Image:
        """Reads the image of an index entry."""
        reference = self._reference.with_digest(entry.digest)
        return RegistryPlace(reference, self._registry, target=entry.target or Target.host()).read()

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob, not verified."""
        return self._registry.stream(self._repository, blob)

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Uploads a blob unless it is there or can be mounted from another repository.

        Raises FormatError for wrong bytes. The registry would refuse them too, but its error would not tell
        that the source is broken.
        """
        push_blob(self._registry, self._repository, blob, lambda: verify(chunks(), blob.digest, blob.size))

    def write_document(self, document: Document) -> None:
        """Uploads a manifest or index under its digest."""
        put_manifest(self._registry, self._repository, str(document.digest), document)

    def set_name(self, document: Document) -> None:
        """Uploads a manifest or index under the name."""
        put_manifest(self._registry, self._repository, self._reference.identifier, document)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """Lists what names `subject` as its subject."""
        return list_referrers(self._registry, self._repository, subject)

    def read_tag(self, tag: str) -> Document | None:
        """Reads the manifest or index under a tag of the repository; None if there is none."""
        try:
            return self._registry.manifest(self._repository, tag)
        except NotFoundError:
            return None

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Uploads a document, so that the registry lists it as a referrer of `subject`."""
        put_referrer(self._registry, self._repository, document, subject=subject)

    def write_tag(self, tag: str, document: Document) -> None:
        """Uploads a document under a tag of the repository."""
        put_manifest(self._registry, self._repository, tag, document)

    def _remember(self, document: Document) -> None:
        """Remembers where a manifest's blobs are, so that other repositories can mount them."""
        if isinstance(document, Manifest):
            self._registry.remember_blobs(self._repository, document.blobs)
