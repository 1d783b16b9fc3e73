"""④ A plain tar of files, written with constant headers and read by an index of its members.

Called by the archives. Nothing is ever extracted by name: a member is a range of the archive's bytes. Layer
tars, with their modes and links, are `layers.tar`'s.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, NotFoundError
from packhorse.image.file import OpenFile

MTIME = 315532801
"""1980-01-01T00:00:01Z, the time on everything that packhorse writes into images."""

_BLOCK = 512
_MEMBERS = 100_000
_EXTENSION = 1 << 20  # the most bytes of a PAX header or a GNU long name
_NAME = 4096  # the most bytes of a name, which Linux has too
_RECORDS = (b"path", b"linkpath", b"size")
_SPARSE = b"GNU.sparse."
_HOPS = 8
_FILE, _HARD_LINK, _SYMLINK = b"0\0\x37", b"1", b"2"
_EMPTY_KINDS = b"123456"  # links, devices, directories and FIFOs: no bytes follow, whatever the size says


Entry = tuple[str, Iterable[bytes], int | None]
"""A file to be archived: its name, its bytes, and how many they are, None while nobody knows."""


class TarWriter:
    """Writes regular files and directories into a new tar, all of root, readable by everybody."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def directory(self, name: str) -> None:
        """Adds a directory; its name ends in no slash."""
        self._file.write(_header(f"{name}/", 0, kind=b"5", mode=0o755))

    def add(self, name: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        """Adds a file. Without `size` the header is written again when the bytes have passed.

        Raises FormatError when the bytes are not `size`.
        """
        start = self._file.tell()
        self._file.write(_header(name, size or 0))
        length = 0
        for chunk in chunks:
            length += len(chunk)
            self._file.write(chunk)
        self._file.write(bytes(-length % _BLOCK))
        if size is None:
            end = self._file.tell()
            self._file.seek(start)
            self._file.write(_header(name, length))
            self._file.seek(end)
        else:
            _require_size(name, length, size)

    def close(self) -> None:
        """Writes the two empty blocks at the end; the file stays open."""
        self._file.write(bytes(2 * _BLOCK))


def stream_tar(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A tar of files of known sizes, as `TarWriter` writes it, while it is read.

    Raises FormatError when the bytes of one are not as many as was said, or nobody has said how many.
    """
    for name, chunks, size in entries:
        if size is None:
            raise FormatError(f"{name} cannot be archived", why="its size is not known")
        yield _header(name, size)
        length = 0
        for chunk in chunks:
            length += len(chunk)
            yield chunk
        _require_size(name, length, size)
        yield bytes(-length % _BLOCK)
    yield bytes(2 * _BLOCK)


def tar_length(entries: Iterable[Entry]) -> int:
    """How many bytes `stream_tar` makes of files of known sizes."""
    sizes = [size or 0 for _, _, size in entries]
    return sum(_BLOCK + size + -size % _BLOCK for size in sizes) + 2 * _BLOCK


def _require_size(name: str, length: int, size: int) -> None:
    if length != size:
        raise FormatError(f"{name} cannot be archived", why=f"{length} bytes came instead of {size}")


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar: a range of bytes, or the name that a link leads to."""

    offset: int
    size: int
    link: str = ""


class TarIndex:
    """The members of a tar by their names; of several with one name the last counts."""

    def __init__(self, path: Path, file: OpenFile, members: dict[str, Member]) -> None:
        self.path = path
        self.file = file
        self._members = members

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads all headers; raises NotFoundError, StoreError and FormatError."""
        return cls.of(path, OpenFile.open(path))

    @classmethod
    def of(cls, path: Path, file: OpenFile) -> Self:
        """Reads all headers of an open file, which errors call `path`; raises StoreError and FormatError."""
        return cls(path, file, _read_members(file, path))

    def find(self, name: str) -> Member | None:
        """The file called `name`, through links inside the archive; None when there is none."""
        name = posixpath.normpath(name)
        for _ in range(_HOPS):
            member = self._members.get(name)
            if member is None or not member.link:
                return member
            name = member.link
        return None

    def content(self, name: str, *, limit: int) -> bytes:
        """A small file whole; raises NotFoundError, and FormatError when it has more than `limit` bytes."""
        member = self.find(name)
        if member is None:
            raise NotFoundError(
                f"{self.path} has no {name}", why="it is not an image archive, or it is incomplete"
            )
        if member.size > limit:
            raise FormatError(
                f"{name} in {self.path} is too large", why=f"{member.size} bytes of at most {limit}"
            )
        return self.file.read_at(member.offset, member.size)


def _read_members(file: OpenFile, path: Path) -> dict[str, Member]:
    found: dict[str, Member] = {}
    extended: dict[str, str] = {}
    offset, end = 0, file.size
    headers = 0
    while offset < end:
        block = file.read_at(offset, _BLOCK)
        if not block.strip(b"\0"):
            break
        headers += 1
        if headers > _MEMBERS:
            raise _tar_error(path, f"it has more than {_MEMBERS} entries")
        if len(block) < _BLOCK or _checksum(block) != _parse_number(block[148:156]):
            compressed = "; it may be compressed: decompress it first" if headers == 1 else ""
            raise _tar_error(path, f"there is no tar header at byte {offset}{compressed}")
        kind = block[156:157]
        offset += _BLOCK
        size = 0 if kind in _EMPTY_KINDS else _read_size(extended.get("size"), block, path)
        if offset + size > end:
            raise _tar_error(path, f"it ends within the file at byte {offset}")
        if kind in b"xLK":
            if size > _EXTENSION:
                raise _tar_error(path, f"the extended header at byte {offset} has {size} bytes")
            extended |= _read_extension(kind, file.read_at(offset, size), path)
        elif kind != b"g":
            _add_member(found, block, extended, Member(offset, size), path)
            extended = {}
        offset += size + -size % _BLOCK
    return found


def _add_member(
    found: dict[str, Member], block: bytes, extended: dict[str, str], member: Member, path: Path
) -> None:
    kind = block[156:157]
    name, target = (
        extended.get("path") or _read_name(block),
        extended.get("linkpath") or _text(block[157:257]),
    )
    if len(name) > _NAME or len(target) > _NAME:
        raise _tar_error(path, f"the name at byte {member.offset - _BLOCK} is longer than {_NAME} bytes")
    name = posixpath.normpath(name).lstrip("/")
    if any(key.startswith(_SPARSE.decode()) for key in extended) or kind not in _FILE + _EMPTY_KINDS:
        raise _tar_error(path, f"{name!r:.100} is of a kind that images do not have in archives")
    if kind in _FILE:
        found[name] = member
    elif kind in _SYMLINK + _HARD_LINK:
        if kind in _SYMLINK:
            target = posixpath.join(posixpath.dirname(name), target)
        found[name] = Member(0, 0, posixpath.normpath(target).lstrip("/"))


def _read_extension(kind: bytes, data: bytes, path: Path) -> dict[str, str]:
    """What a GNU long name or a PAX header (POSIX.1-2001 pax, "Extended Header") says of the next entry."""
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        digits = data[at : max(at, space)]
        end = at + int(digits) if digits.isdigit() else 0
        if not at < space < end <= len(data):
            raise _tar_error(path, "an extended header is not made of records")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key in _RECORDS or key.startswith(_SPARSE):
            records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        at = end
    return records


def _read_size(extended: str | None, block: bytes, path: Path) -> int:
    size = _parse_number(block[124:136])
    if extended is not None and extended.isascii() and extended.isdigit() and len(extended) < 20:
        size = int(extended)
    if size < 0:
        raise _tar_error(path, "a size is not a number")
    return size


def _parse_number(field: bytes) -> int:
    """An octal field, or GNU's base 256; -1 when it is neither."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _read_name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return posixpath.join(prefix, _text(block[:100]))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _checksum(block: bytes) -> int:
    return sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")


def _header(name: str, size: int, *, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """A USTAR header; sizes from 8 GiB on in GNU's base 256, which Go, docker and tar read as well."""
    length = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11)
    block = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            length,
            b"%011o\0" % MTIME,
            b" " * 8,
            kind,
            bytes(100),
            b"ustar\x0000",
        )
    ).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % _checksum(block) + block[156:]


def _tar_error(path: Path, why: str) -> FormatError:
    return FormatError(f"{path} cannot be read as a tar", why=why)
