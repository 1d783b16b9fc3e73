"""Finds the layers of a store by diff ID, and records what is known of each.

A layer rests in one of three forms: a tar, a compressed blob, or a kept tree. packhorse unpacks a compressed
layer while it comes in, and stores it only if it has the diff ID that its image claims. So a blob found by a
diff ID is that layer, no matter which image brought it.

`layers/<diff ID>.json` records the length of the tar and its compressed forms. Each fact is computed from the
bytes, and holds wherever the bytes are: a recorded digest does not mean that the blob is here. The claims of
an image about its own layers are not facts. An image could claim the diff ID of another image's layer, and
its blob would be taken for that layer.

`layers/<diff ID>.pieces` records where the directories of an application lie in its layer; `tar.slices` uses
it to copy unchanged directories. It only saves time: an unreadable record counts as a missing one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.threads import prefetch
from packhorse.errors import FormatError, HostError, StoreError
from packhorse.oci.compress import MeasuredLayer, decompress, measure, verify, with_layer_context
from packhorse.oci.place import Chunks, Layer
from packhorse.oci.types import OCI_LAYERS, Descriptor, JsonNode
from packhorse.store.blobs import Blobs, BlobWriter
from packhorse.store.leases import Lease, read, write, write_bytes
from packhorse.store.snapshots import LayerSnapshots
from packhorse.tar.slices import FormerSlice, Piece

_REPOSITORIES = 8
_COMPUTED = 8


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """The length of a layer's tar in bytes, the descriptor of its compressed form; None if unknown.

    `computed` are the digests of blobs that were unpacked here to this layer, or compressed here from it.
    A blob that is not among them is only what some image claimed: earlier versions recorded that.
    `repositories` are those, registry and all, to which the blob was pushed last.
    """

    size: int | None = None
    blob: Descriptor | None = None
    repositories: tuple[str, ...] = ()
    computed: tuple[Digest, ...] = ()

    @property
    def proven_blob(self) -> Descriptor | None:
        """The blob, if it is known to be this layer."""
        return self.blob if self.blob and self.blob.digest in self.computed else None


class LayerIndex:
    """The facts of a store, one file a layer: `layers/<hex of the diff ID>.json`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def get(self, diff_id: Digest) -> LayerRecord:
        """What is known of a layer; an empty Fact when nothing is."""
        self._lease.pin(_object_path(diff_id))
        return read_record(self._lease.store, diff_id)

    def update(
        self,
        diff_id: Digest,
        *,
        size: int | None = None,
        blob: Descriptor | None = None,
        repository: str = "",
    ) -> None:
        """Adds to what is known of a layer; what is known stays where nothing new is given.

        The caller has unpacked `blob`, or compressed it from the layer. What is known of repositories is
        about the blob that is known.
        """
        old = self.get(diff_id)
        # A descriptor's annotations belong to the manifest it stands in, not to the bytes.
        plain = None if blob is None else Descriptor(blob.media_type, blob.digest, blob.size)
        new = replace(old, size=old.size if size is None else size, blob=plain or old.blob)
        others = old.repositories if new.blob == old.blob else ()
        if repository and repository not in others[:1]:
            others = (repository, *(other for other in others if other != repository))
        new = replace(new, repositories=others[:_REPOSITORIES])
        if plain and plain.digest not in old.computed:
            new = replace(new, computed=(plain.digest, *old.computed)[:_COMPUTED])
        if new != old:
            self._write(diff_id, new)

    def forget(self, diff_id: Digest, blob: Digest) -> None:
        """Forgets a blob that turned out to be another layer; raises StoreError."""
        old = self.get(diff_id)
        if old.blob is not None and old.blob.digest == blob:
            self._write(diff_id, replace(old, blob=None, repositories=()))

    def _write(self, diff_id: Digest, new: LayerRecord) -> None:
        fields: dict[str, object] = {}
        if new.size is not None:
            fields["size"] = new.size
        if new.blob is not None:
            fields["blob"] = new.blob.fields()
        if new.repositories:
            fields["repositories"] = list(new.repositories)
        if new.computed:
            fields["computed"] = [str(digest) for digest in new.computed]
        write(self._lease, self._path(diff_id), fields)

    def _path(self, diff_id: Digest) -> Path:
        return self._lease.store / _object_path(diff_id)


def read_record(store: Path, diff_id: Digest) -> LayerRecord:
    """What the store at `store` knows of a layer, without keeping it from `gc`."""
    fields = read(store / _object_path(diff_id))
    if fields is None:
        return LayerRecord()
    node = JsonNode(fields, f"layer {diff_id}")
    try:
        blob = node.node("blob")
        size = node.size("size") if "size" in fields else None
        descriptor = None if blob is None else Descriptor.parse(blob)
        return LayerRecord(size, descriptor, node.texts("repositories"), node.digests("computed"))
    except FormatError:
        return LayerRecord()  # damage: what it said is learned again


def _object_path(diff_id: Digest) -> str:
    return f"layers/{diff_id.hex}.json"


_FORMAT = 1
"""Of the file, and of the tar: pieces of one that was written in another way are of no use."""


def file_name(diff_id: Digest) -> str:
    """The file of a layer's pieces, in a store."""
    return f"layers/{diff_id.hex}.pieces"


def write_pieces(lease: Lease, diff_id: Digest, terms: str, pieces: Mapping[str, Piece]) -> None:
    """Keeps the pieces of a layer that was packed with these `terms`, if its tar is here.

    Their digest stands before them: a wrong number in it would be a wrong image.
    """
    with suppress(StoreError, HostError):
        size = Blobs(lease).size(diff_id)
        if size is None:
            return
        lease.pin(file_name(diff_id))
        data = json.dumps({"format": _FORMAT, "terms": terms, "size": size, "pieces": pieces}).encode()
        path = lease.store / file_name(diff_id)
        write_bytes(lease, path, f"{Digest.of(data)}\n".encode() + data, durable=False)


@contextmanager
def open_former(lease: Lease, diff_id: Digest, terms: str) -> Iterator[FormerSlice | None]:
    """A layer by its pieces; None where they, or its tar, are not here, or were packed with other terms.

    Raises StoreError, at the latest when the block ends, where the tar is damaged or cannot be read: what was
    made with it is wrong. Its pieces are forgotten then, so the next build does without.
    """
    blobs = Blobs(lease)
    known = _read_pieces(lease, diff_id, terms)
    if known is None or blobs.size(diff_id) != known[1]:
        yield None
        return
    try:
        with blobs.part_reader(diff_id) as read:
            yield FormerSlice(*known, read)
    except StoreError:
        with suppress(OSError):
            (lease.store / file_name(diff_id)).unlink()
        raise


def is_intact(path: Path) -> bool:
    """Whether a file of pieces, if it is there, is what was written."""
    try:
        digest, _, data = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return True
    return digest == str(Digest.of(data)).encode()


def _read_pieces(lease: Lease, diff_id: Digest, terms: str) -> tuple[dict[str, Piece], int] | None:
    lease.pin(file_name(diff_id))
    try:
        digest, _, data = (lease.store / file_name(diff_id)).read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != str(Digest.of(data)).encode():
        return None
    fields = json.loads(data)
    if fields.get("format") != _FORMAT or fields["terms"] != terms:
        return None
    return {path: Piece(*piece) for path, piece in fields["pieces"].items()}, fields["size"]


class LayerStore:
    """Finds and takes layers. What was found or taken stays as long as the store is open."""

    def __init__(self, lease: Lease, blobs: Blobs, index: LayerIndex, snapshots: LayerSnapshots) -> None:
        self._lease = lease
        self._blobs = blobs
        self._index = index
        self._snapshots = snapshots
        self._sound: set[Digest] = set()  # what this command has read or stored whole

    def find(self, diff_id: Digest, stored: Descriptor | None = None) -> Layer | None:
        """The layer with this diff ID, None when it is in the store in no form.

        It has a blob only where a compressed one is here: the one `stored` describes (as a manifest asks for
        it), or without that any. A blob that was never unpacked, which an earlier version has stored, is
        unpacked once to learn what it is.
        """
        fact = self._index.get(diff_id)
        descriptor = stored or fact.blob
        if descriptor and self._blobs.size(descriptor.digest) != descriptor.size:
            descriptor = None
        if (
            descriptor
            and descriptor.digest not in fact.computed
            and not self._verify_blob(diff_id, descriptor)
        ):
            descriptor = None
        tar, size = self._tar_reader(diff_id, descriptor, fact.size)
        if tar is None:
            return None
        layer = Layer(tar, diff_id, fact.size if size is None else size)
        if descriptor is None:
            return layer
        return replace(layer, descriptor=descriptor, blob=partial(self._blobs.chunks, descriptor.digest))

    def add(self, layer: Layer, *, check: bool = False) -> Layer:
        """Brings a layer here unless it is here in some form, and answers it as `find` does.

        Its compressed form is stored as it is where it has one, else its tar. With `check` what is here is
        read first, and what of it is damaged is replaced. Raises StoreError, and FormatError for bytes that
        are not the layer.
        """
        if layer.diff_id is None:
            diff_id, size = self._blobs.add(layer.tar())
            self._index.update(diff_id, size=size)
            return self._make_layer(diff_id)
        if check and layer.diff_id not in self._sound:
            self.remove_damaged(layer.diff_id)
            self._sound.add(layer.diff_id)
        found = self.find(layer.diff_id)
        if found is None:
            with self._lease.lock("layer", layer.diff_id):
                found = self.find(layer.diff_id)
                if found is None:
                    self._store(layer, layer.diff_id)
                    return self._make_layer(layer.diff_id)
        # Of a kept tree the length is known here, and asked for wherever images are listed.
        self._index.update(layer.diff_id, size=found.size)
        return found

    def remove_damaged(self, diff_id: Digest) -> None:
        """Reads a layer in every form in which it is here, and removes those that are damaged; StoreError."""
        blobs = [diff_id]
        if (compressed := self._index.get(diff_id).blob) is not None:
            blobs.append(compressed.digest)
        for digest in blobs:
            self._blobs.is_intact(digest)
        self._snapshots.remove_damaged(diff_id)

    def _store(self, layer: Layer, diff_id: Digest) -> None:
        if layer.blob is not None and layer.descriptor is not None:
            self._store_blob(layer, diff_id, layer.blob, layer.descriptor)
        else:
            _, size = self._blobs.add(layer.tar(), diff_id)
            self._index.update(diff_id, size=size)

    def _store_blob(self, layer: Layer, diff_id: Digest, blob: Chunks, descriptor: Descriptor) -> None:
        """Stores a compressed layer if it unpacks to its diff ID; raises FormatError if not.

        It is unpacked while it comes in, hashed and written: three threads, since each takes its time.
        """
        with self._blobs.writer() as writer, closing(prefetch(blob(), name="layer")) as chunks:
            incoming = _StoringReader(chunks, writer)
            found, failure = None, None
            try:
                found = measure(incoming)
            except FormatError as error:
                failure = error
            # A blob that was damaged on its way says nothing about the image.
            incoming.drain()
            writer.check(descriptor.digest)
            if found is None or found.diff_id != diff_id:
                raise _mismatch_error(layer, diff_id, descriptor, found or failure) from failure
            if writer.size != descriptor.size:
                why = f"its blob {descriptor.digest} has {writer.size} bytes, not {descriptor.size}"
                raise FormatError(f"the layer {diff_id} cannot be stored", why=why)
            writer.finish(descriptor.digest)
        self._index.update(diff_id, size=found.size, blob=_correct_media_type(descriptor, found))

    def _verify_blob(self, diff_id: Digest, descriptor: Descriptor) -> bool:
        """Unpacks a stored blob to see whether it is a layer, and remembers the answer."""
        try:
            found = measure(self._blobs.chunks(descriptor.digest))
        except FormatError:
            found = None
        except StoreError:
            if self._blobs.size(descriptor.digest) is not None:
                raise
            return False  # it was damaged, and is removed
        same = found is not None and found.diff_id == diff_id
        with suppress(StoreError):  # in a store that can only be read it is unpacked every time
            if found is not None and same:
                self._index.update(diff_id, size=found.size, blob=_correct_media_type(descriptor, found))
            else:
                self._index.forget(diff_id, descriptor.digest)
        return same

    def _make_layer(self, diff_id: Digest) -> Layer:
        layer = self.find(diff_id)
        if layer is None:
            raise FormatError(
                f"the layer {diff_id} cannot be stored",
                why="its blob does not have the size it was said to have",
            )
        return layer

    def _tar_reader(
        self, diff_id: Digest, descriptor: Descriptor | None, known: int | None
    ) -> tuple[Chunks | None, int | None]:
        """How the layer's tar is read, and its length where that is known without reading.

        A tar that has not the length that is `known` is damaged, and as if it were not here.
        """
        size = self._blobs.size(diff_id)
        if size is not None and known in (None, size):
            return partial(self._blobs.chunks, diff_id), size
        if descriptor is not None:
            return partial(self._decompress, diff_id, descriptor), None
        tree = self._snapshots.find_any(diff_id)
        if tree is not None:
            return partial(self._snapshots.chunks, tree), tree.size
        return None, None

    def _decompress(self, diff_id: Digest, descriptor: Descriptor) -> Iterator[bytes]:
        """The tar out of the compressed blob; its length is remembered once it was read to the end."""
        size = 0
        tar = verify(decompress(self._blobs.chunks(descriptor.digest)), diff_id)
        try:
            for chunk in with_layer_context(tar, f"{descriptor.digest} of {self._lease.store}"):
                size += len(chunk)
                yield chunk
        except FormatError:
            # Damage can break the decompression before the digest is compared: read the blob to its end, so
            # that it is removed and brought anew.
            for _ in self._blobs.chunks(descriptor.digest):
                pass
            raise
        with suppress(StoreError):  # in a store that can only be read it is counted every time
            self._index.update(diff_id, size=size)


class _StoringReader:
    """The chunks of a blob, written as somebody reads them."""

    def __init__(self, chunks: Iterator[bytes], writer: BlobWriter) -> None:
        self._chunks = chunks
        self._writer = writer
        self._failed: FormatError | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self._writer.write(chunk)
                yield chunk
        except FormatError as error:
            self._failed = error
            raise

    def drain(self) -> None:
        """Reads what nobody has read; raises what reading has raised, now or before."""
        if self._failed is not None:
            raise self._failed
        for _ in self:
            pass


def _correct_media_type(descriptor: Descriptor, found: MeasuredLayer) -> Descriptor:
    """The descriptor with a media type that the bytes have: docker calls layers gzip that are not."""
    if OCI_LAYERS.get(descriptor.media_type) == found.media_type:
        return descriptor
    return replace(descriptor, media_type=found.media_type)


def _mismatch_error(
    layer: Layer, diff_id: Digest, descriptor: Descriptor, found: MeasuredLayer | FormatError | None
) -> FormatError:
    """The error for a blob that is not the layer: what it was found to be, or why it is none."""
    what = (
        f"unpacks to {found.diff_id}" if isinstance(found, MeasuredLayer) else f"cannot be unpacked: {found}"
    )
    return FormatError(
        f"{layer.origin or 'an image'} has a layer that is not the one its config names",
        why=f"the config names {diff_id}\nthe blob in its place, {descriptor.digest}, {what}",
        fix="do not use this image: it is broken, or forged. Nothing of the layer was stored",
    )
