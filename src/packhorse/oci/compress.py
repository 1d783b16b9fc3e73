"""Hashes, compresses, decompresses and verifies the bytes of layers while they stream.

New layers become gzip members of 1 MiB of input each, by libdeflate at level 1, or zstd frames of 4 MiB of
input each, at level 3. The blocks are compressed in parallel, in flat memory, and give the same bytes on
every CPU. The places and the store use this. It does not look inside a tar.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from itertools import chain
from typing import IO, cast

import deflate

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.oci.place import Chunks, Image, Layer
from packhorse.oci.types import OCI_LAYERS, Config, Descriptor, Manifest, MediaType

CHUNK = 1 << 20
"""The most bytes in one chunk, and the input of one gzip member."""

LAYER_LIMIT = 1 << 37
"""The most bytes that an uncompressed layer may have: 128 GiB, against archives made to fill a disk."""

_LEVEL = 1
_ZSTD_FRAME, _ZSTD_LEVEL = 4 << 20, 3
_ZSTD_WINDOW = 1 << 27  # the zstd program's own default limit
_SLICE = 1 << 16
_GZIP = b"\x1f\x8b"
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes((0x50 + kind,)) + b"\x2a\x4d\x18" for kind in range(16)))
"""The first bytes of zstd: of a frame, or of a skippable frame (RFC 8878 3.1.2), with which pzstd begins."""

Sink = Callable[[bytes], object]


class Compression(StrEnum):
    """How a place stores new layers. Layers with a stored form keep it."""

    GZIP = "gzip"
    ZSTD = "zstd"

    @property
    def media_type(self) -> MediaType:
        """The media type of such a layer in a manifest."""
        return MediaType.OCI_LAYER_GZIP if self is Compression.GZIP else MediaType.OCI_LAYER_ZSTD

    def chunks(self, tar: Iterable[bytes]) -> Iterator[bytes]:
        """Compresses bytes."""
        return gzip(tar) if self is Compression.GZIP else zstd(tar)


def gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Compresses bytes to gzip: one member for each MiB of input, in order, on all cores.

    About two members for each core are in memory. The output does not depend on how the input is cut into
    chunks.
    """
    return _compress_blocks(chunks, CHUNK, lambda block: bytes(deflate.gzip_compress(block, _LEVEL)))


def zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Compresses bytes to zstd: one frame for each 4 MiB of input; otherwise as `gzip` does."""
    import zstandard  # slow to import, and few layers need it

    return _compress_blocks(
        chunks, _ZSTD_FRAME, lambda block: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(block)
    )


def tee(layer: Layer, sink: Sink, compression: Compression = Compression.GZIP) -> Layer:
    """Reads a layer's tar once and writes its compressed form to `sink`, chunk by chunk.

    The returned layer has `diff_id`, `size` and the `descriptor` of the compressed form. Raises FormatError
    after the last chunk if the tar does not have the layer's diff ID.
    """
    stored, stored_size = hashlib.sha256(), 0
    tar = _HashingReader(layer.tar())
    for member in compression.chunks(tar):
        stored.update(member)
        stored_size += len(member)
        sink(member)
    descriptor = Descriptor(compression.media_type, Digest(stored.hexdigest()), stored_size)
    return replace(tar.measure_layer(layer), descriptor=descriptor)


def drain(layer: Layer, sink: Sink) -> Layer:
    """Reads a layer's tar once and writes it to `sink`, uncompressed.

    The returned layer has `diff_id` and `size`, but no blob. Raises as `tee` does.
    """
    tar = _HashingReader(layer.tar())
    for chunk in tar:
        sink(chunk)
    return replace(tar.measure_layer(layer), descriptor=None, blob=None)


def verify(
    chunks: Iterable[bytes], digest: Digest, size: int | None = None, *, where: str = ""
) -> Iterator[bytes]:
    """Yields the same chunks and verifies them. `where` tells in errors where they are stored.

    Raises FormatError as soon as there are more than `size` bytes, and at the end if there are fewer or
    they do not have `digest`.
    """
    total, length = hashlib.sha256(), 0
    place = f" of {where}" if where else ""
    for chunk in chunks:
        length += len(chunk)
        if size is not None and length > size:
            raise FormatError(f"{digest}{place} has too many bytes", why=f"there should be {size}")
        total.update(chunk)
        yield chunk
    if size is not None and length < size:
        raise FormatError(f"{digest}{place} broke off", why=f"{length} of {size} bytes came")
    if total.hexdigest() != digest.hex:
        raise _mismatch_error(digest, Digest(total.hexdigest()), place)


def decompress(chunks: Iterable[bytes], *, limit: int = LAYER_LIMIT) -> Iterator[bytes]:
    """Yields the uncompressed form of a layer, which may be gzip, zstd or plain.

    The first bytes decide. The media type does not, because docker also labels plain and zstd layers as gzip.
    Raises FormatError for broken compression, and for more than `limit` bytes of output. It does not notice
    that zstd ends too early; the digest does.
    """
    head, source = _peek(chunks)
    if head.startswith(_GZIP):
        source = _gunzip(source)
    elif head.startswith(_ZSTD):
        source = _unzstd(source)
    total = 0
    for chunk in source:
        total += len(chunk)
        if total > limit:
            raise FormatError("a layer is too large", why=f"it has more than {limit} bytes uncompressed")
        yield chunk


@dataclass(frozen=True, slots=True)
class MeasuredLayer:
    """The diff ID of a stored layer, the length of its tar in bytes, and its OCI media type."""

    diff_id: Digest
    size: int
    media_type: MediaType


def measure(blob: Iterable[bytes]) -> MeasuredLayer:
    """Decompresses a stored layer, keeping nothing of it, to measure it; raises as `decompress` does."""
    head, chunks = _peek(blob)
    meter = _HashingReader(decompress(chunks))
    for _ in meter:
        pass
    kind = MediaType.OCI_LAYER
    if head.startswith(_GZIP):
        kind = MediaType.OCI_LAYER_GZIP
    elif head.startswith(_ZSTD):
        kind = MediaType.OCI_LAYER_ZSTD
    return MeasuredLayer(meter.digest, meter.size, kind)


def is_compressed(head: bytes) -> bool:
    """Whether a layer that begins with these four bytes is gzip or zstd."""
    return head.startswith((_GZIP, *_ZSTD))


def stored_layer(blob: Chunks, descriptor: Descriptor, diff_id: Digest, *, where: str = "") -> Layer:
    """Makes a layer from its stored form. Reading it verifies both forms against their digests.

    `where` tells in errors where it is stored. Raises FormatError if its descriptor has a size above
    `LAYER_LIMIT`.
    """
    place = f" of {where}" if where else ""
    if descriptor.size > LAYER_LIMIT:
        raise FormatError(
            f"the layer {descriptor.digest}{place} is too large",
            why=f"it has {descriptor.size} bytes, at most {LAYER_LIMIT} are read",
        )

    def verified_blob() -> Iterator[bytes]:
        return verify(blob(), descriptor.digest, descriptor.size)

    def tar() -> Iterator[bytes]:
        return with_layer_context(verify(decompress(verified_blob()), diff_id), layer)

    layer = f"{descriptor.digest}{place}"
    return Layer(
        tar,
        diff_id,
        descriptor=descriptor,
        blob=lambda: with_layer_context(verified_blob(), layer),
        origin=where,
    )


def stored_image(
    manifest: Manifest, config: Config, blob: Callable[[Descriptor], Chunks], *, where: str
) -> Image:
    """Makes an image from its manifest and config; `blob` makes the reader of a layer's stored form.

    `where` names the image in errors. Raises FormatError if manifest and config have different numbers of
    layers, or if a layer is no file system.
    """
    if len(config.diff_ids) != len(manifest.layers):
        raise FormatError(
            f"{where} has an image that contradicts itself",
            why=f"its manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}",
        )
    for descriptor in manifest.layers:
        if descriptor.media_type not in OCI_LAYERS:
            raise FormatError(
                f"{where} has a layer that is not a file system",
                why=f"its media type is {descriptor.media_type}",
            )
    layers = tuple(
        stored_layer(blob(descriptor), descriptor, diff_id, where=where)
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    return Image(config, layers, manifest, tuple(sorted(manifest.annotations.items())))


def with_layer_context(chunks: Iterator[bytes], layer: str) -> Iterator[bytes]:
    """Yields the same chunks; a FormatError of theirs gets `layer`, which names the layer and its place."""
    try:
        yield from chunks
    except FormatError as error:
        raise FormatError(
            error.what,
            why=f"{error.why}\nit is the layer {layer}",
            fix=error.fix or "build the image again, or copy it there again",
        ) from error


class _HashingReader:
    """Yields chunks, and hashes and counts their bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._hash = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hash.update(chunk)
            self.size += len(chunk)
            yield chunk

    @property
    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def measure_layer(self, layer: Layer) -> Layer:
        """Returns `layer` with the measured diff ID and size; raises FormatError for another diff ID."""
        diff_id = self.digest
        if layer.diff_id is not None and layer.diff_id != diff_id:
            raise _mismatch_error(layer.diff_id, diff_id)
        return replace(layer, diff_id=diff_id, size=self.size)


def _mismatch_error(expected: Digest, found: Digest, place: str = "") -> FormatError:
    return FormatError(
        f"the bytes of {expected}{place} are not what they should be", why=f"they have the digest {found}"
    )


def split_blocks(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """Cuts bytes into blocks of `length` bytes, the last one shorter."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= length:
            yield bytes(buffer[:length])
            del buffer[:length]
    if buffer:
        yield bytes(buffer)


def _compress_blocks(
    chunks: Iterable[bytes], length: int, compress: Callable[[bytes], bytes]
) -> Iterator[bytes]:
    """Compresses blocks of `length` bytes on all cores, and yields the results in order."""
    cores = os.cpu_count() or 1
    waiting: deque[Future[bytes]] = deque()
    blocks = split_blocks(chunks, length)
    with ThreadPoolExecutor(cores, thread_name_prefix="compress") as pool:
        for block in chain([next(blocks, b"")], blocks):  # no bytes become one empty block
            waiting.append(pool.submit(compress, block))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Returns the first bytes, at least four unless there are fewer, and an iterator over all chunks."""
    source = iter(chunks)
    head = b""
    while len(head) < 4 and (chunk := next(source, b"")):
        head += chunk
    return head, chain([head] if head else [], source)


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    for data in _split_slices(chunks):
        while data:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            try:
                out = member.decompress(data, CHUNK)
            except zlib.error as error:
                raise FormatError("a gzip layer is broken", why=str(error)) from error
            if out:
                yield out
            data = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof:
        raise FormatError("a gzip layer is broken", why="it ends too early")


def _split_slices(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts chunks into small slices.

    At the end of each member, zlib copies the rest of its input, and members may be tiny.
    """
    for chunk in chunks:
        for start in range(0, len(chunk), _SLICE):
            yield chunk[start : start + _SLICE]


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard  # slow to import, and few layers need it

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    source = cast(IO[bytes], _ChunkReader(chunks))
    with decompressor.stream_reader(source, read_across_frames=True) as reader:
        try:
            while out := reader.read(CHUNK):
                yield out
        except zstandard.ZstdError as error:
            raise FormatError("a zstd layer is broken", why=str(error)) from error


class _ChunkReader:
    """A file over chunks, with the one method that zstandard calls."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        data = self._rest or next((chunk for chunk in self._chunks if chunk), b"")
        self._rest = data[size:]
        return data[:size]
