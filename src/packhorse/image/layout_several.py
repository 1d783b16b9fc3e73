"""④ A name in an OCI layout with all that stands under it, as `image.several` copies it.

Also in an archive of one, to read from. Made in `platform.wiring`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packhorse.image.layout import Files, Layout, blob_name, named, read_blob, read_entry, read_index
from packhorse.image.model import INDEXES, Descriptor, Index, Manifest, MediaType
from packhorse.image.several import Document
from packhorse.image.view import Chunks, Image


class LayoutName:
    """One name in the files of a layout, and if it is a directory's, the layout to write to."""

    def __init__(self, files: Files, ref: str, where: str, *, layout: Layout | None = None) -> None:
        self._files = files
        self._ref = ref
        self._where = where
        self._layout = layout

    def root(self) -> Document:
        """What the name stands for; of a name that stands beside several entries, an index of these."""
        entries = named(read_index(self._files, self._where), self._ref, self._where)
        if len(entries) == 1:
            return self.member(entries[0])
        return Index.of(replace(entry, annotations={}) for entry in entries)

    def member(self, entry: Descriptor) -> Document:
        """What an entry describes."""
        raw = read_blob(self._files, entry)
        if entry.media_type in INDEXES:
            return Index.parse(raw, entry.media_type)
        return Manifest.parse(raw, entry.media_type)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry describes."""
        return read_entry(self._files, entry, self._where)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob."""
        return self._files.chunks(blob_name(blob.digest))

    def bring(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes a blob unless it is there."""
        self._writable.keep(blob, chunks)

    def put(self, document: Document) -> None:
        """Writes a manifest or index as a blob."""
        entry = Descriptor(document.media_type or MediaType.OCI_INDEX, document.digest, len(document.raw))
        self._writable.keep(entry, lambda: iter([document.raw]))

    def name(self, document: Document) -> None:
        """Puts it into the layout's index under the name."""
        self.put(document)
        self._writable.enter(Descriptor(document.media_type, document.digest, len(document.raw)))

    @property
    def _writable(self) -> Layout:
        assert self._layout is not None  # nobody writes to an archive so
        return self._layout
