"""④ A name in a registry with all that stands under it, as `image.several` copies it, and what is attached to
that (`image.attached`). Made in `platform.wiring`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.image.attached import Referrer
from packhorse.image.compress import verify
from packhorse.image.model import Descriptor, Document
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.place import RegistryPlace
from packhorse.image.registry.referrers import list_referrers, put_referrer
from packhorse.image.registry.upload import push_blob, put_manifest
from packhorse.image.view import Chunks, Image


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
