"""Reads an untrusted tar from a stream, entry by entry. `tar.unpack` and `tar.listing` use it.

It knows v7, USTAR, STAR, GNU and PAX headers. It reads doubtful headers as Go's archive/tar does, because
docker, containerd, umoci and skopeo do so too. It ignores global PAX headers, and all PAX records except
path, linkpath, size, uid, gid, mtime, extended attributes and those of sparse files.

A sparse file comes in one of four forms (GNU tar's manual, "Storing Sparse Files"). Its map is accepted only
if the extents are in order, do not overlap, end within the file, and add up to the bytes in the archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError

Extent = tuple[int, int]
"""A part of a sparse file that has data: its offset and its number of bytes."""

PREFIX = b"GNU.sparse."
MAP = PREFIX + b"map"
REPEATED = (PREFIX + b"offset", PREFIX + b"numbytes")
"""Records of version 0.0, one pair for each extent; `_parse_records` joins them into version 0.1's map."""

_LIMIT = 1 << 20  # bytes of one map; Go's reader has the same limit
_BLOCK = 512
_NUMBER = re.compile(rb"[0-9]{1,19}")
_ENTRY = 24  # bytes of an extent in a block: two numbers of twelve digits
_IN_HEADER, _IN_BLOCK = (386, 4), (0, 21)  # the offset of the extents in a block, and their number
_REAL_SIZE = slice(483, 495)

Block = Callable[[], bytes]
"""Reads the next 512 bytes of the archive."""


def read_header_map(
    block: bytes, read_block: Block, number: Callable[[bytes], int]
) -> tuple[int, list[Extent]]:
    """The size and extents of an entry of type S, from its header `block` and the blocks after it."""
    size = number(block[_REAL_SIZE])
    extents: list[Extent] = []
    (start, count), taken = _IN_HEADER, 0
    while True:
        end = start + count * _ENTRY
        for at in range(start, end, _ENTRY):
            if not block[at]:
                break
            extents.append((number(block[at : at + 12]), number(block[at + 12 : at + _ENTRY])))
        if not block[end]:
            return size, extents
        taken += _BLOCK
        if taken > _LIMIT:
            raise _map_error(f"it is longer than {_LIMIT} bytes")
        block = read_block()
        start, count = _IN_BLOCK


def read_records_map(
    records: Mapping[bytes, bytes], read_block: Block
) -> tuple[int, list[Extent], int] | None:
    """The size and extents of a sparse file in PAX records, and the bytes that it read by `read_block`.

    None if the records describe no sparse file, or one in an unknown version.
    """
    version = records.get(PREFIX + b"major", b""), records.get(PREFIX + b"minor", b"")
    taken = 0
    if version == (b"1", b"0"):
        numbers, taken = _read_leading_map(read_block)
    elif version in ((b"0", b"0"), (b"0", b"1")) or (version == (b"", b"") and MAP in records):
        numbers = [_parse_extent_number(digits) for digits in records.get(MAP, b"").split(b",") if digits]
        if len(numbers) != 2 * _parse_extent_number(records.get(PREFIX + b"numblocks", b"")):
            raise _map_error("it has another number of extents than it says")
    else:
        return None
    size = _parse_extent_number(records.get(PREFIX + b"size") or records.get(PREFIX + b"realsize") or b"")
    return size, list(zip(numbers[::2], numbers[1::2], strict=True)), taken


def validate(extents: Sequence[Extent], size: int, stored: int) -> list[Extent]:
    """The extents that have data. Raises FormatError if the map does not fit the file.

    `size` is that of the file, `stored` that of its data in the archive, in bytes.
    """
    end = total = 0
    for offset, length in extents:
        if offset < end:
            raise _map_error("it goes backwards")
        end = offset + length
        total += length
    if end > size:
        raise _map_error("it leads beyond the end of the file")
    if total != stored:
        raise _map_error("its extents have another number of bytes than the archive has")
    return [extent for extent in extents if extent[1]]


def _read_leading_map(read_block: Block) -> tuple[list[int], int]:
    """Reads the map of version 1.0, in front of the data: one number a line, first the number of extents.

    Returns the numbers after the first, and the bytes that it read.
    """
    text = b""
    wanted = 1
    while (lines := text.count(b"\n")) < wanted:
        if len(text) >= _LIMIT:
            raise _map_error(f"it is longer than {_LIMIT} bytes")
        # A block holds at most 256 numbers, so all these blocks are needed.
        text += b"".join(read_block() for _ in range(max(1, (wanted - lines) // 256)))
        if wanted == 1 and b"\n" in text:
            wanted += 2 * _parse_extent_number(text.partition(b"\n")[0])
            if 2 * wanted > _LIMIT:
                raise _map_error(f"it is longer than {_LIMIT} bytes")
    return [_parse_extent_number(line) for line in text.split(b"\n", wanted)[1:wanted]], len(text)


def _parse_extent_number(digits: bytes) -> int:
    if not _NUMBER.fullmatch(digits):
        raise _map_error("it has something other than numbers")
    return int(digits)


def _map_error(why: str) -> FormatError:
    return FormatError("the map of a sparse file cannot be used", why=why)


_ZERO = bytes(_BLOCK)
_EXTENDED_LIMIT = 1 << 20  # bytes of one extended header; Go's reader has the same limit
_EXTENDED_TOTAL = 1 << 30  # bytes of all of them; a million entries with long names have less
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_SECONDS = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_NAMES = frozenset((b"path", b"linkpath", PREFIX + b"name"))
_SPARSE = frozenset(
    PREFIX + key for key in (b"major", b"minor", b"map", b"numblocks", b"size", b"realsize", b"name")
)
_KNOWN_RECORDS = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")) | _SPARSE
_ATTRIBUTE = b"SCHILY.xattr."
_WITHOUT_CONTENT = frozenset(b"123456")


@dataclass(slots=True)
class TarHeader:
    """One entry of the archive. `name` and `link` are unchecked bytes, `type` is the tar type.

    `mode` has the twelve permission bits. `size` is in bytes, with holes, and 0 for a type without content.
    `mtime` is in nanoseconds since 1970. `attributes` are the extended attributes, unchecked.
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    attributes: tuple[tuple[bytes, bytes], ...] = ()


class TarReader:
    """Iterates over the headers of a tar; `content` returns the bytes of the current entry.

    It skips content that the caller does not read. All methods raise FormatError for bytes that are no tar.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self._left = 0  # bytes of the current entry's content that were not read yet
        self._padding = 0
        self._extended = 0  # bytes of extended headers so far
        self._extents: Sequence[Extent] = ()

    def __iter__(self) -> Iterator[TarHeader]:
        return self

    def __next__(self) -> TarHeader:
        records: dict[bytes, bytes] = {}
        long: dict[bytes, bytes] = {}  # GNU's long names, which override PAX's
        while True:
            block = self._next_block()
            if block is None:
                raise StopIteration
            kind = block[156:157]
            if kind in b"xgLK":
                data = self._read_extension(kind, _parse_number(block[124:136], "size"))
                if kind == b"g":
                    records, long = {}, {}
                elif kind == b"x":
                    records = _parse_records(data)
                else:
                    long[b"path" if kind == b"L" else b"linkpath"] = data.partition(b"\x00")[0]
                continue
            records |= {key: value for key, value in long.items() if value}
            return self._make_header(block, records)

    def content(self) -> Iterator[tuple[int, memoryview]]:
        """The bytes of the current entry in pieces, each with its offset in the file, without the holes."""
        for offset, length in self._extents:
            end = offset + length
            while offset < end:
                piece = self._read_piece(end - offset)
                self._left -= len(piece)
                yield offset, piece
                offset += len(piece)

    def _make_header(self, block: bytes, records: dict[bytes, bytes]) -> TarHeader:
        header = _read_header(block, records)
        self._begin(header.size)
        old = block[156:157] == b"S"
        if not old and not (records.keys() & _SPARSE):
            return header
        if old:
            header.size, extents = read_header_map(
                block, self._read_block, lambda field: _parse_number(field, "size")
            )
        else:
            found = read_records_map(records, self._read_content_block)
            if found is None:
                return header
            if header.type != b"0":
                raise _tar_error("a sparse entry is not a file")
            header.size, extents, taken = found
            header.name = records.get(PREFIX + b"name") or header.name
            self._count_extended(taken)
        self._extents = validate(extents, header.size, self._left)
        return header

    def _read_block(self) -> bytes:
        self._count_extended(_BLOCK)
        return self._read(_BLOCK)

    def _read_content_block(self) -> bytes:
        if self._left < _BLOCK:
            raise _tar_error("the map of a sparse file does not end")
        self._left -= _BLOCK
        return self._read(_BLOCK)

    def _begin(self, size: int) -> None:
        self._left = size
        self._extents = ((0, size),)
        self._padding = -size % _BLOCK

    def _skip_content(self) -> None:
        """Skips the rest of an entry. The padding of the last entry may be missing."""
        while self._left:
            self._left -= len(self._read_piece(self._left))
        while self._padding:
            if not self._fetch_chunk():
                return
            self._padding -= len(self._read_piece(self._padding))

    def _count_extended(self, size: int) -> None:
        self._extended += size
        if self._extended > _EXTENDED_TOTAL:
            raise _tar_error(f"it has more than {_EXTENDED_TOTAL} bytes of extended headers")

    def _next_block(self) -> bytes | None:
        """The next header block, with a valid checksum; None at the end of the archive."""
        self._skip_content()
        block = self._read(_BLOCK, end_allowed=True)
        if not block:
            return None
        if block == _ZERO:
            if self._read(_BLOCK, end_allowed=True) not in (b"", _ZERO):
                raise _tar_error("a zero block stands between entries")
            # Read the stream to its end, because a caller may hash all of it.
            for _ in self._chunks:
                pass
            return None
        total = sum(block) - sum(block[148:156]) + 8 * 0x20
        # Some old programs summed signed bytes: each byte from 0x80 on counts 256 less.
        high = sum(byte > 0x7F for byte in block) - sum(byte > 0x7F for byte in block[148:156])
        if _parse_number(block[148:156], "checksum") not in (total, total - 256 * high):
            raise _tar_error("the checksum of a header is wrong")
        return block

    def _read_extension(self, kind: bytes, size: int) -> bytes:
        """The data of an extended header; b"" for a global one, which is skipped."""
        self._begin(size)
        if kind == b"g":
            return b""
        if size > _EXTENDED_LIMIT:
            raise _tar_error(f"an extended header has {size} bytes, at most {_EXTENDED_LIMIT} are read")
        self._count_extended(size)
        return b"".join(piece for _, piece in self.content())

    def _read(self, count: int, *, end_allowed: bool = False) -> bytes:
        """Reads exactly `count` bytes; returns b"" at the end of the stream if `end_allowed`."""
        end = self._at + count
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        if end_allowed and not self._fetch_chunk():
            return b""
        data = b""
        while len(data) < count:
            data += self._read_piece(count - len(data))
        return data

    def _read_piece(self, most: int) -> memoryview:
        """Reads between 1 and `most` bytes, from one chunk of the stream."""
        if not self._fetch_chunk():
            raise _tar_error("it ends in the middle of an entry")
        piece = memoryview(self._chunk)[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def _fetch_chunk(self) -> bool:
        """Fetches the next chunk if the current one is used up; False at the end of the stream."""
        while self._at == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._chunk, self._at = chunk, 0
        return True


def _read_header(block: bytes, records: dict[bytes, bytes]) -> TarHeader:
    name = block[:100].partition(b"\x00")[0]
    prefix = _read_prefix(block)
    if prefix:
        name = prefix + b"/" + name
    name = records.get(b"path") or name
    kind = block[156:157]
    if kind in b"\x007S":
        kind = b"5" if kind == b"\x00" and name.endswith(b"/") else b"0"
    size = _parse_decimal(records, b"size", block[124:136])
    return TarHeader(
        name,
        kind,
        _parse_number(block[100:108], "mode", signed=True) & 0o7777,
        _check_id(_parse_decimal(records, b"uid", block[108:116]), name),
        _check_id(_parse_decimal(records, b"gid", block[116:124]), name),
        0 if kind[0] in _WITHOUT_CONTENT else size,
        _parse_time(records[b"mtime"])
        if records.get(b"mtime")
        else _parse_number(block[136:148], "mtime", signed=True) * 10**9,
        records.get(b"linkpath") or block[157:257].partition(b"\x00")[0],
        tuple((key[len(_ATTRIBUTE) :], value) for key, value in records.items() if _is_attribute(key)),
    )


def _is_attribute(key: bytes) -> bool:
    return key.startswith(_ATTRIBUTE)


def _read_prefix(block: bytes) -> bytes:
    """The leading directories of a name that is too long for its field."""
    if block[257:263] == b"ustar\x00":
        # STAR, known by its trailer, has times behind a shorter prefix.
        return block[345 : 476 if block[508:] == b"tar\x00" else 500].partition(b"\x00")[0]
    if block[257:265] != b"ustar  \x00":
        return b""
    # GNU's format has times there, but Go before 1.8 wrote a prefix (golang.org/issue/12594).
    times = block[345:357], block[357:369]
    prefix = block[345:500].partition(b"\x00")[0]
    return b"" if all(map(_is_number, times)) or not prefix.isascii() else prefix


def _parse_records(data: bytes) -> dict[bytes, bytes]:
    """The PAX records that the reader uses; an empty value cancels an earlier one."""
    records: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    for key, value in _iterate_records(data):
        if key in REPEATED:
            if key != REPEATED[len(parts) % 2] or b"," in value:
                raise _tar_error("the records of a sparse file are in disorder")
            parts.append(value)
        elif key in _KNOWN_RECORDS or _is_attribute(key):
            records[key] = value
    if parts:
        records[MAP] = b",".join(parts)
    return records


def _is_number(field: bytes) -> bool:
    try:
        return _parse_number(field, "", signed=True) is not None if field[0] else True
    except FormatError:
        return False


def _iterate_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The PAX records of an extended header: `<length> <key>=<value>` and a newline.

    The length counts the whole record.
    """
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not _DECIMAL.fullmatch(digits):
            raise _tar_error("a PAX record has no length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise _tar_error("a PAX record is malformed")
        if b"\x00" in value and key in _NAMES:
            raise _tar_error("a PAX name has a NUL")
        yield key, value
        at = end


def _parse_decimal(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    value = records.get(key)
    if not value:
        return _parse_number(field, key.decode())
    if not _DECIMAL.fullmatch(value):
        raise _tar_error(f"the PAX {key.decode()} is not a number")
    return int(value)


def _parse_time(value: bytes) -> int:
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise _tar_error("the PAX mtime is not a number of seconds")
    nanoseconds = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if match[1] else nanoseconds


def _parse_number(field: bytes, what: str, *, signed: bool = False) -> int:
    """A number in octal digits, or in GNU's base 256 if the top bit of the first byte is set."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (field[0] & 0x40 != 0) << bits
        if not (-(1 << 60) if signed else 0) <= value < 1 << 60:
            raise _tar_error(f"the {what} of an entry is out of range")
        return value
    digits = field.strip(b" \x00").partition(b"\x00")[0]
    try:
        if digits and not digits.isdigit():
            raise ValueError
        return int(digits or b"0", 8)
    except ValueError:
        raise _tar_error(f"the {what} of an entry is not a number") from None


def _check_id(value: int, name: bytes) -> int:
    if value >= (1 << 32) - 1:
        raise _tar_error(f"{_display_name(name)} belongs to the id {value}, but ids end at {(1 << 32) - 2}")
    return value


def _display_name(name: bytes) -> str:
    return name[:200].decode("utf-8", "backslashreplace")


def _tar_error(why: str) -> FormatError:
    return FormatError("the layer is not a valid tar", why=why)
