"""④ A name in an OCI layout with all that stands under it, as `image.several` copies it, and what is attached
to that (`image.attached`).

Also in an archive of one, to read from. Made in `platform.wiring`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, NotFoundError
from packhorse.image.attached import Referrer, index_of_referrers, parse_referrers, referrers_tag, subject_of
from packhorse.image.layout import (
    Layout,
    LayoutFiles,
    blob_name,
    find_entries,
    read_document,
    read_entry,
    read_index,
)
from packhorse.image.model import Descriptor, Document, Index
from packhorse.image.view import Chunks, Image


class LayoutName:
    """One name in the files of a layout, and if it is a directory's, the layout to write to."""

    def __init__(self, files: LayoutFiles, ref: str, where: str, *, layout: Layout | None = None) -> None:
        self._files = files
        self._ref = ref
        self._where = where
        self._layout = layout
        self._subjects: dict[Digest, list[Referrer]] | None = None

    def root(self) -> Document:
        """What the name stands for; of a name that stands beside several entries, an index of these."""
        entries = find_entries(read_index(self._files, self._where), self._ref, self._where)
        if len(entries) == 1:
            return self.member(entries[0])
        return Index.of(replace(entry, annotations={}) for entry in entries)

    def member(self, entry: Descriptor) -> Document:
        """What an entry describes."""
        return read_document(self._files, entry, self._where)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry describes."""
        return read_entry(self._files, entry, self._where)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob."""
        return self._files.chunks(blob_name(blob.digest))

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes a blob unless it is there."""
        self._require_layout.add_blob(blob, chunks)

    def write_document(self, document: Document) -> None:
        """Writes a manifest or index as a blob."""
        self._require_layout.add_blob(document.descriptor, lambda: iter([document.raw]))

    def set_name(self, document: Document) -> None:
        """Puts it into the layout's index under the name."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject: by the list under the tag for it, or in the index itself."""
        if self._subjects is None:
            self._subjects = self._find_subjects()
        listed = self._read_list(referrers_tag(subject))
        known = {each.descriptor.digest for each in listed}
        own = self._subjects.get(subject, ())
        return [*listed, *(each for each in own if each.descriptor.digest not in known)]

    def read_tag(self, tag: str) -> Document | None:
        """What the index has under another name."""
        try:
            entries = find_entries(read_index(self._files, self._where), tag, self._where)
        except NotFoundError:
            return None
        return self.member(entries[0])

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Keeps a document, and puts it on the list under the tag for its subject."""
        self.write_document(document)
        tag, own = referrers_tag(subject), Referrer.of(document)
        with self._require_layout.lock():
            there = self._read_list(tag)
            if all(each.descriptor.digest != own.descriptor.digest for each in there):
                index = index_of_referrers([*there, own])
                self.write_document(index)
                self._require_layout.add_entries_locked({tag: index.descriptor})

    def write_tag(self, tag: str, document: Document) -> None:
        """Puts a document into the index under another name."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor, tag)

    def add_entries(self, entries: Mapping[str, Descriptor]) -> None:
        """Puts what was kept into the index under several names at once, or no name at all."""
        if entries:
            with self._require_layout.lock():
                self._require_layout.add_entries_locked(entries)

    def _read_list(self, tag: str) -> list[Referrer]:
        found = self.read_tag(tag) if self._exists() else None
        return list(parse_referrers(found.raw)) if isinstance(found, Index) else []

    def _exists(self) -> bool:
        """Whether there is a layout yet."""
        try:
            read_index(self._files, self._where)
        except NotFoundError:
            return False
        return True

    def _find_subjects(self) -> dict[Digest, list[Referrer]]:
        """What in the index has a subject, as ORAS leaves it there."""
        found: dict[Digest, list[Referrer]] = {}
        for entry in read_index(self._files, self._where).manifests:
            with suppress(FormatError, NotFoundError):  # what cannot be read refers to nothing
                document = self.member(entry)
                subject = subject_of(document)
                if subject:
                    found.setdefault(subject, []).append(Referrer.of(document))
        return found

    @property
    def _require_layout(self) -> Layout:
        assert self._layout is not None  # nobody writes to an archive so
        return self._layout
