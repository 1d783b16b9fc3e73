"""Finds the layers of a store by diff ID, and records what is known of each.

The store has a layer in one or more of three forms: a tar, a compressed blob, a kept tree. packhorse unpacks
a compressed layer while it comes in, and stores it only if it has the diff ID that its image claims. So a
blob found by a diff ID is that layer, no matter which image brought it.

`layers/<diff ID>.json` records the length of the tar and its compressed form. packhorse has computed each of
these facts from the bytes. They hold even if the bytes are gone: a recorded digest does not mean that the
blob is here. The claims of an image about its own layers are never recorded. An image could claim the diff ID
of another image's layer, and its blob would be taken for that layer.

`layers/<diff ID>.pieces` records where the directories of an application lie in its layer; `tar.slices` uses
it to copy unchanged directories. It only saves time: a damaged record counts as a missing one.
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
    """The known facts about a layer: `size` of its tar in bytes, `blob`, its compressed form, or None.

    `computed` are the digests of blobs that packhorse has unpacked to this layer, or compressed from it. A
    `blob` that is not among them is only the claim of an image, which earlier versions recorded.
    `repositories` are those to which the blob was pushed, with their registries, the latest first.
    """

    size: int | None = None
    blob: Descriptor | None = None
    repositories: tuple[str, ...] = ()
    computed: tuple[Digest, ...] = ()

    @property
    def proven_blob(self) -> Descriptor | None:
        """The blob, if packhorse has computed that it is this layer."""
        return self.blob if self.blob and self.blob.digest in self.computed else None


class LayerIndex:
    """Reads and writes the records of layers, `layers/<hex of the diff ID>.json`."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def get(self, diff_id: Digest) -> LayerRecord:
        """The record of a layer, an empty one if nothing is known."""
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
        """Adds facts to the record of a layer. Raises StoreError.

        The caller has unpacked `blob`, or compressed it from the layer. A new blob replaces the known one,
        and its repositories.
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
        """Removes a blob from the record that is not the layer. Raises StoreError."""
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
    """The record of a layer, an empty one if nothing is known. It does not keep the record from `gc`."""
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
        return LayerRecord()  # damaged: commands compute the facts again


def _object_path(diff_id: Digest) -> str:
    return f"layers/{diff_id.hex}.json"


_FORMAT = 1
"""The version of the file and of the tars: pieces of a tar with other bytes are of no use."""


def file_name(diff_id: Digest) -> str:
    """The path of a layer's pieces inside the store."""
    return f"layers/{diff_id.hex}.pieces"


def write_pieces(lease: Lease, diff_id: Digest, terms: str, pieces: Mapping[str, Piece]) -> None:
    """Records the pieces of a layer that was packed with these `terms`, if its tar is here.

    The file begins with a digest of the rest, because a wrong number would make a wrong image. Errors are
    ignored.
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
    """A layer's pieces; None if they or its tar are not here, or if it was packed with other terms.

    Raises StoreError, at the latest at the end of the block, if the tar is damaged or cannot be read; then
    bytes copied from it may be wrong. It also removes the pieces, so the next build does not use them.
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
    """Whether a file of pieces is missing, or has the digest at its beginning."""
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
    """Finds and adds layers. A layer that was found or added stays as long as the store is open."""

    def __init__(self, lease: Lease, blobs: Blobs, index: LayerIndex, snapshots: LayerSnapshots) -> None:
        self._lease = lease
        self._blobs = blobs
        self._index = index
        self._snapshots = snapshots
        self._intact: set[Digest] = set()  # layers that this command has read or stored completely

    def find(self, diff_id: Digest, stored: Descriptor | None = None) -> Layer | None:
        """The layer with this diff ID; None if the store has it in no form.

        The layer has a blob only if the store has the one that `stored` describes, or without `stored` a
        known one. A blob that an earlier version stored without unpacking it is unpacked once, to verify it.
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
        """Stores a layer unless the store has it in some form; returns it as `find` does.

        It stores the compressed form unchanged if the layer has one, else its tar. With `check` it first
        reads the stored forms and removes damaged ones. Raises StoreError, and FormatError for bytes that are
        not the layer.
        """
        if layer.diff_id is None:
            diff_id, size = self._blobs.add(layer.tar())
            self._index.update(diff_id, size=size)
            return self._make_layer(diff_id)
        if check and layer.diff_id not in self._intact:
            self.remove_damaged(layer.diff_id)
            self._intact.add(layer.diff_id)
        found = self.find(layer.diff_id)
        if found is None:
            with self._lease.lock("layer", layer.diff_id):
                found = self.find(layer.diff_id)
                if found is None:
                    self._store(layer, layer.diff_id)
                    return self._make_layer(layer.diff_id)
        # Record the length of a kept tree's tar too, because listing images needs it.
        self._index.update(layer.diff_id, size=found.size)
        return found

    def remove_damaged(self, diff_id: Digest) -> None:
        """Reads all forms of a layer, and removes the damaged ones. Raises StoreError."""
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
        """Stores a compressed layer if it unpacks to its diff ID. Raises FormatError if it does not.

        Three threads work at once: one receives the blob, one unpacks it, one hashes and writes it.
        """
        with self._blobs.writer() as writer, closing(prefetch(blob(), name="layer")) as chunks:
            incoming = _StoringReader(chunks, writer)
            found, failure = None, None
            try:
                found = measure(incoming)
            except FormatError as error:
                failure = error
            # Check the blob first: if it was damaged on its way, the image is not to blame.
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
        """Unpacks a stored blob to learn whether it is the layer `diff_id`, and records the answer."""
        try:
            found = measure(self._blobs.chunks(descriptor.digest))
        except FormatError:
            found = None
        except StoreError:
            if self._blobs.size(descriptor.digest) is not None:
                raise
            return False  # it was damaged, and `chunks` has removed it
        same = found is not None and found.diff_id == diff_id
        with suppress(StoreError):  # in a read-only store the blob is unpacked each time
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
                why="its blob has another size than its manifest says",
            )
        return layer

    def _tar_reader(
        self, diff_id: Digest, descriptor: Descriptor | None, known: int | None
    ) -> tuple[Chunks | None, int | None]:
        """A function that reads the layer's tar, and the tar's length if that is known.

        A stored tar with another length than the `known` one is damaged, and counts as missing.
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
        """Unpacks the compressed blob in chunks; at the end it records the length of the tar."""
        size = 0
        tar = verify(decompress(self._blobs.chunks(descriptor.digest)), diff_id)
        try:
            for chunk in with_layer_context(tar, f"{descriptor.digest} of {self._lease.store}"):
                size += len(chunk)
                yield chunk
        except FormatError:
            # Damage can break the decompression before the digest is compared. Read the blob to its end, so
            # that `chunks` removes it, and the next command brings it again.
            for _ in self._blobs.chunks(descriptor.digest):
                pass
            raise
        with suppress(StoreError):  # a read-only store
            self._index.update(diff_id, size=size)


class _StoringReader:
    """Iterates over the chunks of a blob, and writes each to the store."""

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
        """Reads and writes the remaining chunks. Raises the error of this or an earlier read."""
        if self._failed is not None:
            raise self._failed
        for _ in self:
            pass


def _correct_media_type(descriptor: Descriptor, found: MeasuredLayer) -> Descriptor:
    """The descriptor with the media type of the bytes: docker calls some layers gzip that are not."""
    if OCI_LAYERS.get(descriptor.media_type) == found.media_type:
        return descriptor
    return replace(descriptor, media_type=found.media_type)


def _mismatch_error(
    layer: Layer, diff_id: Digest, descriptor: Descriptor, found: MeasuredLayer | FormatError | None
) -> FormatError:
    """The error for a blob that is not the layer. `found` is what it unpacks to, or why it cannot."""
    what = (
        f"unpacks to {found.diff_id}" if isinstance(found, MeasuredLayer) else f"cannot be unpacked: {found}"
    )
    return FormatError(
        f"{layer.origin or 'an image'} has a layer that is not the one its config names",
        why=f"the config names {diff_id}\nthe blob in its place, {descriptor.digest}, {what}",
        fix="do not use this image: it is broken, or forged. Nothing of the layer was stored",
    )
