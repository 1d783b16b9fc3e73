"""④ All that stands under one name, the images for several targets too, byte for byte from place to place.

Called by platform. What is no image (an attestation beside one) goes along: nothing is understood here but
which documents and blobs there are. Places for one image are `image.place`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from packhorse.base.crew import ThreadPool, thread_pool
from packhorse.base.digest import Digest
from packhorse.base.meter import UNWATCHED, Meter, Task
from packhorse.errors import FormatError
from packhorse.image.copy import JOBS
from packhorse.image.model import DEPTH, Descriptor, Document, Manifest
from packhorse.image.view import Chunks

DOCUMENT_LIMIT = 1000
"""The most documents under one name."""


class DocumentSource(Protocol):
    """A name under which several images may stand."""

    def root(self) -> Document:
        """What the name stands for; raises NotFoundError."""
        ...

    def member(self, entry: Descriptor) -> Document:
        """What an entry of an index describes."""
        ...

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob."""
        ...


class DocumentSink(Protocol):
    """A name that several images can be given. Nothing is visible under it before `name` returns."""

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Sees to it that a blob is here; reads it only if it is not."""
        ...

    def write_document(self, document: Document) -> None:
        """Keeps a document by its digest; all that it names is here."""
        ...

    def set_name(self, document: Document) -> None:
        """Gives a document, all of whose members were put, the name."""
        ...


def copy_all(
    source: DocumentSource, sink: DocumentSink, *, meter: Meter = UNWATCHED, name: str = "copying"
) -> Document:
    """Copies a name with every image under it, and answers what the name stands for.

    Raises what the two raise, and FormatError for indexes that are nested deeper, or have more in them, than
    anybody makes.
    """
    root = source.root()
    copy_documents(source, sink, list(members(source, root)), root, meter=meter, name=name)
    sink.set_name(root)
    return root


def copy_members(source: DocumentSource, sink: DocumentSink, entries: Iterable[Descriptor]) -> None:
    """Copies what entries of an index describe, and gives it no name. Raises as `copy_all` does."""
    copy_documents(source, sink, list(_entry_documents(source, entries, DEPTH - 1, set())))


def members(source: DocumentSource, document: Document) -> Iterator[Document]:
    """All the documents that a document names, each once and behind those that it names itself.

    Raises FormatError for more than `DOCUMENT_LIMIT`, and for indexes that are nested deeper than `DEPTH`.
    """
    return _nested_documents(source, document, DEPTH, set())


def copy_documents(
    source: DocumentSource,
    sink: DocumentSink,
    documents: list[Document],
    *others: Document,
    meter: Meter = UNWATCHED,
    name: str = "copying",
) -> None:
    """Copies documents, each behind its members, and what is in them; of `others` the latter alone.

    `meter` counts the bytes under `name`.
    """
    blobs = {
        blob.digest: blob
        for document in (*documents, *others)
        if isinstance(document, Manifest)
        for blob in (document.config, *document.layers)
    }
    total = sum(blob.size for blob in blobs.values())
    with (
        meter.task(name, unit="B", total=total) as task,
        thread_pool(JOBS, "blob", timeout=3) as workers,
    ):
        workers.map(lambda blob: _copy_blob(workers, source, sink, blob, task), blobs.values())
    for document in documents:
        sink.write_document(document)


def _copy_blob(
    workers: ThreadPool, source: DocumentSource, sink: DocumentSink, blob: Descriptor, task: Task
) -> None:
    sink.write_blob(blob, lambda: task.count_bytes(workers.cancellable(source.blob(blob))))


def _nested_documents(
    source: DocumentSource, document: Document, depth: int, taken: set[Digest]
) -> Iterator[Document]:
    """The members of a document, each behind its own, without what was `taken` before."""
    if isinstance(document, Manifest):
        return
    if not depth:
        raise FormatError("an index cannot be read", why=f"it is nested more than {DEPTH} deep")
    yield from _entry_documents(source, document.manifests, depth - 1, taken)


def _entry_documents(
    source: DocumentSource, entries: Iterable[Descriptor], depth: int, taken: set[Digest]
) -> Iterator[Document]:
    for entry in entries:
        if entry.digest in taken:
            continue
        if len(taken) == DOCUMENT_LIMIT:
            raise FormatError(
                "an index has too much in it", why=f"at most {DOCUMENT_LIMIT} manifests are copied"
            )
        taken.add(entry.digest)
        member = source.member(entry)
        yield from _nested_documents(source, member, depth, taken)
        yield member
