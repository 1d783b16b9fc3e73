"""All that stands under a name in a registry that has mirrors: each thing is read from the first that has it.

Called by `platform.wiring`. A place for one image is `platform.mirrors`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from packhorse.base.digest import Digest
from packhorse.errors import NetworkError, NotFoundError, RegistryError
from packhorse.image.attached import Referrer
from packhorse.image.model import Descriptor
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.several import RegistryName
from packhorse.image.several import Document
from packhorse.image.view import Image

_Found = TypeVar("_Found")

_PASSED_OVER = (NetworkError, NotFoundError)
"""A mirror is there to be asked, not to be relied on."""


class MirroredName(RegistryName):
    """A name whose `mirrors` are asked in their order, then the registry; only that is written to."""

    def __init__(self, reference: Reference, registry: Registry, mirrors: Sequence[RegistryName]) -> None:
        super().__init__(reference, registry)
        self._mirrors = mirrors
        self._from_mirror = False

    def root(self) -> Document:
        """What the name stands for."""
        found: Document | None = self._first(lambda mirror: mirror.root())
        self._from_mirror = found is not None
        return found or super().root()

    def member(self, entry: Descriptor) -> Document:
        """What an entry of an index describes."""
        return self._first(lambda mirror: mirror.member(entry)) or super().member(entry)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry of an index describes."""
        return self._first(lambda mirror: mirror.image(entry)) or super().image(entry)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob; who began to give them gives all."""
        for mirror in self._mirrors:
            chunks = mirror.blob(blob)
            try:
                first = next(chunks, b"")
            except _PASSED_OVER:
                continue
            yield first  # nothing, for a blob that has nothing in it
            yield from chunks
            return
        yield from super().blob(blob)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject; a mirror that knows of nothing may know nothing of such."""
        found = self._first(lambda mirror: mirror.referrers(subject))
        return found or self._unless_away(lambda: super(MirroredName, self).referrers(subject)) or ()

    def tagged(self, tag: str) -> Document | None:
        """What lies under a tag of the repository."""
        found: Document | None = self._first(lambda mirror: mirror.tagged(tag))
        return found or self._unless_away(lambda: super(MirroredName, self).tagged(tag))

    def _unless_away(self, ask: Callable[[], _Found]) -> _Found | None:
        """What the registry itself says of what is attached. Where there is nobody to be reached but the
        mirror that has the image, that has the last word.
        """
        try:
            return ask()
        except RegistryError:
            raise
        except NetworkError:
            if self._from_mirror:
                return None
            raise

    def _first(self, ask: Callable[[RegistryName], _Found]) -> _Found | None:
        """The first answer of a mirror that has something in it."""
        for mirror in self._mirrors:
            try:
                found = ask(mirror)
            except _PASSED_OVER:
                continue
            if found:
                return found
        return None
