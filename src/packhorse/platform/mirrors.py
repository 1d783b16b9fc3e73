"""Names in a registry that has mirrors: each thing is read from the first mirror that has it, then from the
registry, and written to the registry alone.

Called by `platform.wiring`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from packhorse.base.digest import Digest
from packhorse.errors import NetworkError, NotFoundError, RegistryError
from packhorse.image.attached import Referrer
from packhorse.image.model import Descriptor, Document
from packhorse.image.place import Place, Receipt
from packhorse.image.reference import Reference
from packhorse.image.registry.client import Registry
from packhorse.image.registry.several import RegistryName
from packhorse.image.view import Image, Layer

_Found = TypeVar("_Found")
_Mirror = TypeVar("_Mirror")

_NO_ANSWER = (NetworkError, NotFoundError)


def first_answer(mirrors: Sequence[_Mirror], ask: Callable[[_Mirror], _Found]) -> _Found | None:
    """The first answer that has something in it; mirrors that fail are passed over."""
    for mirror in mirrors:
        try:
            found = ask(mirror)
        except _NO_ANSWER:
            continue
        if found:
            return found
    return None


class MirroredPlace:
    """The image with one name; `mirrors` are asked for it in their order, then the registry is."""

    def __init__(self, place: Place, mirrors: Sequence[Place]) -> None:
        self._place = place
        self._mirrors = mirrors

    def read(self) -> Image:
        """The image under this name; raises what the registry itself raises if no mirror has it."""
        return first_answer(self._mirrors, lambda mirror: mirror.read()) or self._place.read()

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer to the registry itself."""
        return self._place.write_layer(layer)

    def write_image(self, image: Image) -> Receipt:
        """Makes the image appear in the registry itself."""
        return self._place.write_image(image)


class MirroredName(RegistryName):
    """A name whose `mirrors` are asked in their order, then the registry; only that is written to."""

    def __init__(self, reference: Reference, registry: Registry, mirrors: Sequence[RegistryName]) -> None:
        super().__init__(reference, registry)
        self._mirrors = mirrors
        self._from_mirror = False

    def root(self) -> Document:
        """What the name stands for."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.root())
        self._from_mirror = found is not None
        return found or super().root()

    def member(self, entry: Descriptor) -> Document:
        """What an entry of an index describes."""
        return first_answer(self._mirrors, lambda mirror: mirror.member(entry)) or super().member(entry)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry of an index describes."""
        return first_answer(self._mirrors, lambda mirror: mirror.image(entry)) or super().image(entry)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, all from the first mirror that has any of it."""
        for mirror in self._mirrors:
            chunks = mirror.blob(blob)
            try:
                first = next(chunks, b"")
            except _NO_ANSWER:
                continue
            yield first  # nothing, for a blob that has nothing in it
            yield from chunks
            return
        yield from super().blob(blob)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject; a mirror that knows of nothing may know nothing of such."""
        found = first_answer(self._mirrors, lambda mirror: mirror.referrers(subject))
        return found or self._ask_registry(lambda: super(MirroredName, self).referrers(subject)) or ()

    def read_tag(self, tag: str) -> Document | None:
        """What lies under a tag of the repository."""
        found: Document | None = first_answer(self._mirrors, lambda mirror: mirror.read_tag(tag))
        return found or self._ask_registry(lambda: super(MirroredName, self).read_tag(tag))

    def _ask_registry(self, ask: Callable[[], _Found]) -> _Found | None:
        """What the registry itself says of what is attached; None if only the mirror that has the image can
        be reached, and knows of nothing.
        """
        try:
            return ask()
        except RegistryError:
            raise
        except NetworkError:
            if self._from_mirror:
                return None
            raise
