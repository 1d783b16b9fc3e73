"""③ Tars that others made, read from a stream entry by entry, with nothing believed before it is checked.

Called by `layers.unpack`, which decides where an entry may go. Knows v7, USTAR, GNU and PAX headers. Global
PAX headers, and all PAX records but path, linkpath, size, uid, gid and mtime, are passed over, as docker and
containerd do; sparse entries are refused. Writing tars is `layers.tar`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packhorse.errors import FormatError

_BLOCK = 512
_ZERO = bytes(_BLOCK)
_EXTENDED_LIMIT = 1 << 20  # bytes of one extended header; Go's reader has the same limit
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_SECONDS = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_KNOWN = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
_SPARSE = b"GNU.sparse."
_WITHOUT_CONTENT = frozenset(b"123456")


@dataclass(slots=True)
class Header:
    """One entry as the archive has it: `name` and `link` are unchecked bytes, `type` is the tar type.

    `mode` has the twelve permission bits; `size` is in bytes, 0 for what has no content; `mtime` is in
    nanoseconds.
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes


class Archive:
    """An iterator over the headers of a tar; `content` gives the bytes of the entry last returned.

    Content that was not read is skipped. All methods raise FormatError for bytes that are not a tar.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self._left = 0  # content of the current entry not read yet
        self._padding = 0

    def __iter__(self) -> Iterator[Header]:
        return self

    def __next__(self) -> Header:
        records: dict[bytes, bytes] = {}
        while True:
            block = self._next_block()
            if block is None:
                raise StopIteration
            kind = block[156:157]
            if kind in b"xgLK":
                self._extend(records, kind, _number(block[124:136], "size"))
                continue
            header = _header(block, records)
            self._begin(header.size)
            return header

    def content(self) -> Iterator[memoryview]:
        """The bytes of the current entry, in pieces as the stream has them."""
        while self._left:
            piece = self._piece(self._left)
            self._left -= len(piece)
            yield piece

    def _begin(self, size: int) -> None:
        self._left = size
        self._padding = -size % _BLOCK

    def _next_block(self) -> bytes | None:
        """The next header block, its checksum right; None at the end of the archive."""
        for _ in self.content():
            pass
        self._take(self._padding)
        self._padding = 0
        block = self._take(_BLOCK, end_allowed=True)
        if not block:
            return None
        if block == _ZERO:
            if self._take(_BLOCK, end_allowed=True) not in (b"", _ZERO):
                raise _bad("a zero block stands between entries")
            # What follows the end is not ours, but whoever verifies the stream needs it read.
            for _ in self._chunks:
                pass
            return None
        checksum = _number(block[148:156], "checksum")
        if checksum != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise _bad("the checksum of a header is wrong")
        return block

    def _extend(self, records: dict[bytes, bytes], kind: bytes, size: int) -> None:
        """Reads an extended header into `records`, in which an empty value undoes an earlier one."""
        self._begin(size)
        if kind == b"g":
            return
        if size > _EXTENDED_LIMIT:
            raise _bad(f"an extended header has {size} bytes, at most {_EXTENDED_LIMIT} are read")
        data = b"".join(self.content())
        if kind == b"x":
            for key, value in _records(data):
                if key in _KNOWN:
                    records[key] = value
                elif key.startswith(_SPARSE):
                    records[_SPARSE] = value
        else:
            records[b"path" if kind == b"L" else b"linkpath"] = data.partition(b"\x00")[0]

    def _take(self, count: int, *, end_allowed: bool = False) -> bytes:
        """Exactly `count` bytes; none at all at the end of the stream where that is allowed."""
        end = self._at + count
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        data = b""
        while len(data) < count:
            try:
                data += self._piece(count - len(data))
            except FormatError:
                if end_allowed and not data:
                    return b""
                raise
        return data

    def _piece(self, most: int) -> memoryview:
        """Some of the next `most` bytes: what is left of the current chunk, or else of the next one."""
        while self._at == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                raise _bad("it ends in the middle of an entry")
            self._chunk, self._at = chunk, 0
        piece = memoryview(self._chunk)[self._at : self._at + most]
        self._at += len(piece)
        return piece


def _header(block: bytes, records: dict[bytes, bytes]) -> Header:
    name = block[:100].partition(b"\x00")[0]
    if block[257:265] == b"ustar\x0000" and block[345]:
        name = block[345:500].partition(b"\x00")[0] + b"/" + name
    name = records.get(b"path") or name
    kind = block[156:157]
    if kind in b"\x007":
        kind = b"5" if kind == b"\x00" and name.endswith(b"/") else b"0"
    if kind == b"S" or _SPARSE in records:
        raise FormatError(
            f"{_shown(name)} is stored as a sparse file, which is not supported",
            why="a GNU tar with --sparse made the layer",
            fix="Make the layer again without --sparse.",
        )
    size = _decimal(records, b"size", block[124:136])
    return Header(
        name,
        kind,
        _number(block[100:108], "mode") & 0o7777,
        _id(_decimal(records, b"uid", block[108:116]), name),
        _id(_decimal(records, b"gid", block[116:124]), name),
        0 if kind[0] in _WITHOUT_CONTENT else size,
        _time(records[b"mtime"])
        if records.get(b"mtime")
        else _number(block[136:148], "mtime", signed=True) * 10**9,
        records.get(b"linkpath") or block[157:257].partition(b"\x00")[0],
    )


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The PAX records of an extended header: `<length> <key>=<value>` and a newline, the length of it all."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not _DECIMAL.fullmatch(digits):
            raise _bad("a PAX record has no length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end <= space + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
            raise _bad("a PAX record is malformed")
        if b"\x00" in value and key in (b"path", b"linkpath"):
            raise _bad("a PAX name has a NUL")
        yield key, value
        at = end


def _decimal(records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
    value = records.get(key)
    if not value:
        return _number(field, key.decode())
    if not _DECIMAL.fullmatch(value):
        raise _bad(f"the PAX {key.decode()} is no number")
    return int(value)


def _time(value: bytes) -> int:
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise _bad("the PAX mtime is no number of seconds")
    nanoseconds = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if match[1] else nanoseconds


def _number(field: bytes, what: str, *, signed: bool = False) -> int:
    """A number in octal digits or, with the top bit of its first byte set, in GNU's base 256."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        value -= (field[0] & 0x40 != 0) << bits
        if not (-(1 << 60) if signed else 0) <= value < 1 << 60:
            raise _bad(f"the {what} of an entry is out of range")
        return value
    digits = field.strip(b" \x00").partition(b"\x00")[0]
    try:
        if digits and not digits.isdigit():
            raise ValueError
        return int(digits or b"0", 8)
    except ValueError:
        raise _bad(f"the {what} of an entry is no number") from None


def _id(value: int, name: bytes) -> int:
    if value >= (1 << 32) - 1:
        raise _bad(f"{_shown(name)} belongs to the id {value}, and ids end at {(1 << 32) - 2}")
    return value


def _shown(name: bytes) -> str:
    return name[:200].decode("utf-8", "backslashreplace")


def _bad(why: str) -> FormatError:
    return FormatError("the layer is not a valid tar", why=why)
