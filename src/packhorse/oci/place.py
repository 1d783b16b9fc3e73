"""Defines an image (`Image`), the port of all places that images live in (`Place`), and copying between them.

A place is one name in one kind of storage. The adapters are `store.place`, `oci.layout`, `oci.archive`,
`oci.registry.place` and `oci.engine`; `host.wiring` makes them. Each place decides what it stores and whether
it compresses layers.

`copy` copies one image, several layers at a time, and reads only the layers that the destination lacks.
`copy_all` copies everything under a name byte for byte: images for several targets, and documents that are no
images, such as attestations. It has ports of its own (`DocumentSource`, `DocumentSink`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.digest import Digest
from packhorse.base.progress import UNWATCHED, Meter, Task
from packhorse.base.target import Target
from packhorse.base.threads import ThreadPool, thread_pool
from packhorse.errors import FormatError
from packhorse.oci.types import (
    DEPTH,
    MANIFESTS,
    OCI_LAYERS,
    Config,
    Descriptor,
    Document,
    Manifest,
    MediaType,
)

Chunks = Callable[[], Iterator[bytes]]
"""Reads some bytes from their start, in chunks of at most 1 MiB. Each call reads them again."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is known about it, and how to read its bytes.

    `tar` yields the uncompressed tar. `diff_id` is its digest and `size` its length in bytes; both are None
    while unknown. `blob` yields the stored form, usually gzip, that `descriptor` describes; a layer may have
    none. A layer that a place read always has `diff_id`. `origin` names its image in errors.

    An image only claims that `blob` unpacks to `diff_id`. `tar` verifies it.
    """

    tar: Chunks
    diff_id: Digest | None = None
    size: int | None = None
    descriptor: Descriptor | None = None
    blob: Chunks | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image for one target. It has a `manifest` if it was read from a place that has manifests.

    `known_digests` are other digests that identify it: those of the indexes that it was selected from, or
    those that an engine or the store verified earlier. `all_targets` are the targets in the index under the
    name that it was read by; None if that name has no index.
    """

    config: Config
    layers: tuple[Layer, ...]
    manifest: Manifest | None = None
    annotations: tuple[tuple[str, str], ...] = field(default=())
    all_targets: tuple[Target, ...] | None = None
    known_digests: tuple[Digest, ...] = ()

    @property
    def id(self) -> Digest:
        """The image ID: the digest of the config's raw bytes."""
        return Digest.of(self.config.raw)

    def has_digest(self, digest: Digest) -> bool:
        """Whether a digest identifies this image: its ID, its manifest's digest, or a known digest."""
        return digest in (self.id, self.manifest and self.manifest.digest, *self.known_digests)


def layer_ids(image: Image) -> tuple[Digest, ...]:
    """Returns the diff IDs of an image's layers; raises FormatError if its config has other ones."""
    if image.config.diff_ids != tuple(layer.diff_id for layer in image.layers):
        raise FormatError("an image contradicts itself", why="its config names other layers than it has")
    return image.config.diff_ids


def make_manifest(image: Image, *, accepts: Collection[str] = MANIFESTS) -> Manifest:
    """Returns the image's own manifest if it still describes the image; else makes an OCI manifest.

    `accepts` are the media types of manifests that the destination accepts. If the own manifest has another
    one, the new manifest has the same config and blobs. Raises FormatError if a layer has no descriptor or an
    unknown media type, or if the config names other layers.
    """
    own, raw = image.manifest, image.config.raw
    stored = []
    for diff_id, layer in zip(layer_ids(image), image.layers, strict=True):
        if layer.descriptor is None or layer.descriptor.media_type not in OCI_LAYERS:
            why = f"it is {layer.descriptor.media_type}" if layer.descriptor else "it is not stored as a blob"
            raise FormatError(f"the layer {diff_id} cannot be in a manifest", why=why)
        stored.append(layer.descriptor)
    digests = [image.id, *(descriptor.digest for descriptor in stored)]
    if own and own.media_type in accepts and digests == own.blobs:
        return own
    config = Descriptor(MediaType.OCI_CONFIG, image.id, len(raw))
    layers = [replace(item, media_type=OCI_LAYERS[item.media_type]) for item in stored]
    return Manifest.of(config, layers, dict(image.annotations))


@dataclass(frozen=True, slots=True)
class Receipt:
    """Identifies a written image: by its ID, and if the place has manifests, by its manifest's digest."""

    image_id: Digest
    manifest_digest: Digest | None = None
    manifest_size: int = 0


class Place(Protocol):
    """One name in one storage. The name does not change before `write_image`."""

    def read(self) -> Image:
        """Reads the image under this name; raises NotFoundError, and FormatError for a broken image."""
        ...

    def write_layer(self, layer: Layer) -> Layer:
        """Writes one layer's bytes unless this place has them. Several threads may call it.

        A layer of unknown digest is read once. The returned layer has `diff_id`, and the `descriptor` of the
        stored form if this place stores blobs. It has `size` too, unless the blob was copied as it is.
        Raises StoreError, NetworkError or FormatError (bytes that do not match their digest).
        """
        ...

    def write_image(self, image: Image) -> Receipt:
        """Puts `image` under this name, wholly or not at all. Its layers come from `write_layer`."""
        ...


JOBS = 4
"""How many layers are copied at the same time."""


def copy(source: Place, destination: Place, *, meter: Meter = UNWATCHED, name: str = "copying") -> Receipt:
    """Copies the image of one place to another; raises what the two places raise.

    `meter` counts its bytes in a task called `name`. Config and blobs keep their bytes; so does the manifest
    if the destination stores the same blobs.
    """
    with meter.task(name):  # an engine may have to write an archive first
        image = source.read()
    return push_image(image, destination, meter=meter, name=name)


def push_image(
    image: Image, destination: Place, *, jobs: int = JOBS, meter: Meter = UNWATCHED, name: str = "copying"
) -> Receipt:
    """Writes an image to a place, `jobs` layers at a time; counts its bytes in a task called `name`."""
    with count_bytes(image, meter, name) as image:
        return destination.write_image(write_layers(image, destination, jobs=jobs))


@contextmanager
def count_bytes(image: Image, meter: Meter, name: str) -> Iterator[Image]:
    """Yields the image, whose layers' bytes count in one task of `meter` when they are read."""
    sizes = {_layer_key(layer): _layer_size(layer) for layer in image.layers}
    with meter.task(name, unit="B", total=sum(sizes.values()) if all(sizes.values()) else 0) as task:
        layers = {_layer_key(layer): _count_layer(layer, task) for layer in image.layers}
        yield replace(image, layers=tuple(layers[_layer_key(layer)] for layer in image.layers))


def _layer_size(layer: Layer) -> int:
    """Returns how many bytes of a layer are read to copy it, 0 if unknown."""
    return layer.descriptor.size if layer.blob and layer.descriptor else layer.size or 0


def _count_layer(layer: Layer, task: Task) -> Layer:
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: task.count_bytes(tar()),
        blob=(lambda: task.count_bytes(blob())) if blob else None,
    )


def write_layers(image: Image, destination: Place, *, jobs: int = JOBS) -> Image:
    """Writes an image's layers to a place, equal ones once; returns the image with the written layers."""
    if jobs == 1:
        return replace(image, layers=tuple(map(destination.write_layer, image.layers)))
    distinct = {_layer_key(layer): layer for layer in image.layers}
    with thread_pool(jobs, "layer", timeout=3) as workers:
        waiting = {
            key: workers.submit(destination.write_layer, make_cancellable(workers, layer))
            for key, layer in distinct.items()
        }
        found = {key: future.result() for key, future in waiting.items()}
    return replace(image, layers=tuple(found[_layer_key(layer)] for layer in image.layers))


def make_cancellable(workers: ThreadPool, layer: Layer) -> Layer:
    """Returns the layer; reading it ends when the pool is cancelled."""
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: workers.cancellable(tar()),
        blob=(lambda: workers.cancellable(blob())) if blob else None,
    )


def _layer_key(layer: Layer) -> object:
    """Identifies a layer: by its diff ID, or while that is unknown, by the object."""
    return layer.diff_id or id(layer)


DOCUMENT_LIMIT = 1000
"""The most manifests and indexes that are copied with one name."""


class DocumentSource(Protocol):
    """A name to copy from, with all manifests, indexes and blobs under it."""

    def root(self) -> Document:
        """Reads the manifest or index under the name; raises NotFoundError."""
        ...

    def member(self, entry: Descriptor) -> Document:
        """Reads the manifest or index of an index entry."""
        ...

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob."""
        ...


class DocumentSink(Protocol):
    """A name to copy to. The name does not change before `set_name`."""

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes a blob; reads `chunks` only if the blob is missing."""
        ...

    def write_document(self, document: Document) -> None:
        """Writes a manifest or index by its digest. Everything that it names was written before."""
        ...

    def set_name(self, document: Document) -> None:
        """Writes a manifest or index under the name. Everything that it names was written before."""
        ...


def copy_all(
    source: DocumentSource, sink: DocumentSink, *, meter: Meter = UNWATCHED, name: str = "copying"
) -> Document:
    """Copies a name with everything under it; returns the manifest or index under the name.

    Raises what source and sink raise, and FormatError beyond `DEPTH` or `DOCUMENT_LIMIT`.
    """
    root = source.root()
    copy_documents(source, sink, list(members(source, root)), root, meter=meter, name=name)
    sink.set_name(root)
    return root


def copy_members(source: DocumentSource, sink: DocumentSink, entries: Iterable[Descriptor]) -> None:
    """Copies index entries with everything under them, but sets no name. Raises as `copy_all` does."""
    copy_documents(source, sink, list(_entry_documents(source, entries, DEPTH - 1, set())))


def members(source: DocumentSource, document: Document) -> Iterator[Document]:
    """Yields all manifests and indexes below a document, each once, and after its own members.

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
    """Copies the blobs of all documents, then writes `documents` in their order; `others` are not written.

    `meter` counts the bytes in a task called `name`.
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
    """Yields the members of a document, each after its own members, except those already `taken`."""
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
