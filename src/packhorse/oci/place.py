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
"""Starts a fresh pass over some bytes, in chunks of at most 1 MiB; may be called again."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: what is known of it, and how to get at its bytes.

    `tar` yields the uncompressed tar. `diff_id` is its digest and `size` its length in bytes, None while
    nobody knows. `blob` yields the stored form described by `descriptor` (usually gzip), where there is one.
    A layer of an image being read always has `diff_id`. `origin` names the image it is read from, for errors.

    Nothing here says that `blob` unpacks to `diff_id`: an image only claims that. `tar` checks it.
    """

    tar: Chunks
    diff_id: Digest | None = None
    size: int | None = None
    descriptor: Descriptor | None = None
    blob: Chunks | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A single-target image. `manifest` is there when it was read from a place that has manifests.

    `id` is the digest of the config's raw bytes: what docker calls the image ID. `known_digests` are digests
    other than its manifest's by which it was read: of the indexes it was chosen from, or what an engine or a
    store has checked before. `all_targets` are the targets of
    all images that its name stands for where it was read, as far as an index says them; None where the name
    stands for this image alone.
    """

    config: Config
    layers: tuple[Layer, ...]
    manifest: Manifest | None = None
    annotations: tuple[tuple[str, str], ...] = field(default=())
    all_targets: tuple[Target, ...] | None = None
    known_digests: tuple[Digest, ...] = ()

    @property
    def id(self) -> Digest:
        """The image ID: the digest of the config as it is stored."""
        return Digest.of(self.config.raw)

    def has_digest(self, digest: Digest) -> bool:
        """Whether a digest stands for this image: its ID, its manifest's, or one that it is known by."""
        return digest in (self.id, self.manifest and self.manifest.digest, *self.known_digests)


def layer_ids(image: Image) -> tuple[Digest, ...]:
    """The diff IDs of an image's layers; raises FormatError when they are not the ones its config names."""
    if image.config.diff_ids != tuple(layer.diff_id for layer in image.layers):
        raise FormatError("an image contradicts itself", why="its config names other layers than it has")
    return image.config.diff_ids


def make_manifest(image: Image, *, accepts: Collection[str] = MANIFESTS) -> Manifest:
    """The image's own manifest, byte for byte, where it still says what the image is; else a new OCI one.

    `accepts` are the media types of manifests that the destination takes; a manifest of another is made
    anew as well, over the same config and blobs. All layers must have descriptors. Raises FormatError
    when one has not, or is no layer that an image can have, or when the config names other layers.
    """
    own, raw = image.manifest, image.config.raw
    stored = []
    for diff_id, layer in zip(layer_ids(image), image.layers, strict=True):
        if layer.descriptor is None or layer.descriptor.media_type not in OCI_LAYERS:
            why = (
                f"it is {layer.descriptor.media_type}"
                if layer.descriptor
                else "it was not brought: it is not stored as a blob"
            )
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
    """What a place identifies a written image by: the image ID, and where it has manifests their digest."""

    image_id: Digest
    manifest_digest: Digest | None = None
    manifest_size: int = 0


class Place(Protocol):
    """One name in one storage. Nothing is visible under the name before `write_image` returns."""

    def read(self) -> Image:
        """The image under this name; raises NotFoundError if there is none, FormatError if it is broken."""
        ...

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer's bytes here unless they are here already; may be called from several threads.

        A layer of unknown digest is read once. The answer has `diff_id` and, where this place stores blobs,
        the `descriptor` of the stored form; `size` too unless the blob was copied as it is.
        Raises StoreError, NetworkError or FormatError (bytes that do not match).
        """
        ...

    def write_image(self, image: Image) -> Receipt:
        """Makes `image`, whose layers all came back from `write_layer`, appear under this name, or
        fails wholly.
        """
        ...


JOBS = 4
"""How many layers are on their way at the same time."""


def copy(source: Place, destination: Place, *, meter: Meter = UNWATCHED, name: str = "copying") -> Receipt:
    """Copies the image under one name to another; raises what the two places raise.

    `meter` counts its bytes under `name`. Config and blobs arrive byte for byte, and so does the manifest
    where the destination stores the same blobs.
    """
    with meter.task(name):  # an engine may have to write an archive first
        image = source.read()
    return push_image(image, destination, meter=meter, name=name)


def push_image(
    image: Image, destination: Place, *, jobs: int = JOBS, meter: Meter = UNWATCHED, name: str = "copying"
) -> Receipt:
    """Writes an image to a place, `jobs` layers at a time; `meter` counts its bytes under `name`."""
    with count_bytes(image, meter, name) as image:
        return destination.write_image(write_layers(image, destination, jobs=jobs))


@contextmanager
def count_bytes(image: Image, meter: Meter, name: str) -> Iterator[Image]:
    """The image as one task of `meter`, to which the bytes of its layers count as they are read."""
    sizes = {_layer_key(layer): _layer_size(layer) for layer in image.layers}
    with meter.task(name, unit="B", total=sum(sizes.values()) if all(sizes.values()) else 0) as task:
        layers = {_layer_key(layer): _count_layer(layer, task) for layer in image.layers}
        yield replace(image, layers=tuple(layers[_layer_key(layer)] for layer in image.layers))


def _layer_size(layer: Layer) -> int:
    """How many bytes of a layer are read to copy it, 0 where nobody knows."""
    return layer.descriptor.size if layer.blob and layer.descriptor else layer.size or 0


def _count_layer(layer: Layer, task: Task) -> Layer:
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: task.count_bytes(tar()),
        blob=(lambda: task.count_bytes(blob())) if blob else None,
    )


def write_layers(image: Image, destination: Place, *, jobs: int = JOBS) -> Image:
    """The image with its layers at a place, under no name yet; one that it has twice is brought once."""
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
    """The layer, whose reading ends when the workers are to stop."""
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: workers.cancellable(tar()),
        blob=(lambda: workers.cancellable(blob())) if blob else None,
    )


def _layer_key(layer: Layer) -> object:
    """What tells layers apart: the diff ID, or for a layer that nobody has read yet the layer itself."""
    return layer.diff_id or id(layer)


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
