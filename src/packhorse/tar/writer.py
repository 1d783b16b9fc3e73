"""Turns directories into the tars of layers, with the same bytes that the reference lifecycle writes.

Entries have the order and owners that the reference gives them (lifecycle v0.21 `layers/`, `archive/`). The
caller makes the entries above a layer's directory, and those of the launcher layers, with
`TarEntry.directory` and its siblings. They never come from stat(2), because the host's own directories must
not change a digest.

A header is USTAR if every field fits, else PAX (Go's archive/tar). Each entry has the date
1980-01-01T00:00:01Z and no user name. Two zero blocks end the tar, without further padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache, partial
from itertools import chain
from typing import BinaryIO, NamedTuple, Self

from packhorse.base.digest import Digest
from packhorse.base.threads import Pipeline
from packhorse.base.tree import Node, NodeKind, TreeView
from packhorse.errors import FormatError, TreeError

Found = tuple[str, Node]
"""A path relative to a directory, "" for the directory itself, and the entry there."""


class TarEntry(NamedTuple):
    """One entry of a layer. `name` is an absolute path without a slash at its end.

    `mode` has the twelve permission bits, `size` is the length of a file in bytes. Its bytes are either `at`
    a path in a tree, or come from `open`, which returns a stream. `link` is the target of a link. Text is
    decoded with surrogateescape. It is a tuple, as `Node` is, because a layer has so many.
    """

    name: str
    kind: NodeKind
    mode: int
    uid: int
    gid: int
    size: int = 0
    link: str = ""
    open: Callable[[], BinaryIO] | None = None
    at: tuple[TreeView, str] | None = None

    @classmethod
    def directory(cls, name: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Self:
        """A directory that is in no tree, such as a parent of a layer."""
        return cls(name, NodeKind.DIRECTORY, mode, uid, gid)

    @classmethod
    def symlink(cls, name: str, target: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Self:
        """A link that is in no tree."""
        return cls(name, NodeKind.LINK, mode, uid, gid, link=target)

    @classmethod
    def file(cls, name: str, size: int, open: Callable[[], BinaryIO], *, mode: int = 0o755) -> Self:
        """A file that is in no tree and belongs to root, such as the launcher."""
        return cls(name, NodeKind.FILE, mode, 0, 0, size=size, open=open)


class PackedTree(NamedTuple):
    """Stands for all entries below a directory, with their bytes from an earlier tar.

    `path` is the directory's, with a slash at its end: by that it sorts among the paths of `Found`.
    """

    path: str
    chunks: Callable[[], Iterator[bytes]]


class Position:
    """The number of bytes of a tar that are made so far."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def directory_entries(
    view: TreeView, path: str, *, uid: int, gid: int, parents: Sequence[TarEntry] = ()
) -> Iterator[TarEntry]:
    """The entries of a layer: `parents`, then the directory `path` and everything below it, with one owner.

    An entry whose name is among `parents` is left out, and so are sockets and devices. Raises TreeError if
    `path` is not a directory.
    """
    yield from parents
    make = _entry_maker(view, path, uid, gid, parents)
    for found in _walk(view, path):
        entry = make(*found)
        if entry is not None:
            yield entry


def selected_entries(
    view: TreeView,
    path: str,
    found: Iterable[Found | PackedTree],
    *,
    uid: int,
    gid: int,
    parents: Sequence[TarEntry] = (),
) -> Iterator[TarEntry | PackedTree]:
    """The entries of a layer: `parents`, then those `found` below `path`, in their order.

    It has no entries at all, not even `parents`, if `found` is empty (B-085). Owners and left out entries are
    as in `directory_entries`.
    """
    make = _entry_maker(view, path, uid, gid, parents)
    is_first = True
    for one in found:
        if is_first:
            yield from parents
            is_first = False
        entry = one if isinstance(one, PackedTree) else make(*one)
        if entry is not None:
            yield entry


def _walk(view: TreeView, path: str) -> Iterator[Found]:
    """The directory `path` and everything below it: a directory before its entries, these in byte order."""
    top = view.stat(path)
    if top is None or top.kind is not NodeKind.DIRECTORY:
        raise TreeError(f"{path} is not a directory", why="a layer is made of a directory")
    stack = [("", top)]
    while stack:
        here, node = stack.pop()
        yield here, node
        if node.kind is NodeKind.DIRECTORY:
            prefix = f"{here}/" if here else ""
            stack += ((prefix + child.name, child) for child in reversed(view.list(_join(path, here))))


def _join(path: str, below: str) -> str:
    return f"{path}/{below}" if below else path


def _entry_maker(
    view: TreeView, path: str, uid: int, gid: int, parents: Sequence[TarEntry]
) -> Callable[[str, Node], TarEntry | None]:
    """A function that makes an entry of a node below `path`; None for those that are left out."""
    written = {parent.name for parent in parents}

    def make(below: str, node: Node) -> TarEntry | None:
        name = _join(path, below)
        if name in written:
            return None
        match node.kind:
            case NodeKind.FILE:
                return TarEntry(name, NodeKind.FILE, node.mode, uid, gid, node.size, "", None, (view, name))
            case NodeKind.LINK:
                return TarEntry(name, NodeKind.LINK, node.mode, uid, gid, link=view.readlink(name))
            case NodeKind.DIRECTORY | NodeKind.FIFO:
                return TarEntry(name, node.kind, node.mode, uid, gid)
        return None

    return make


CHUNK = 1 << 20
"""The most bytes in one chunk of a stream."""

_SMALL = 1 << 18
"""The most bytes of a file of a tree that is read by one call."""

_BLOCK = 512
_FIELD = 100  # bytes for a name or link target in a USTAR header
_PREFIX = 155  # bytes for the leading directories of a longer name
_ID_LIMIT = 1 << 21  # more than seven octal digits
_SIZE_LIMIT = 1 << 33  # more than eleven octal digits
_TYPES = {NodeKind.FILE: b"0", NodeKind.LINK: b"2", NodeKind.DIRECTORY: b"5", NodeKind.FIFO: b"6"}
_MTIME_FIELD = b"\x00%011o\x00" % 315532801  # the end of the size field, then 1980-01-01T00:00:01Z
_USTAR = b"ustar\x0000" + bytes(64) + b"0000000\x00" * 2  # no user and group name, device 0/0 in digits
_PAX = b"ustar\x0000" + bytes(80)  # Go leaves the device of an extended header empty
_ZEROS = bytes(_BLOCK)
_BEFORE = 154  # bytes of a header up to the end of the checksum's digits
_UNSUMMED = 7 * 0x20  # a checksum counts its own field as eight spaces; one of them is in the header's end


def stream(entries: Iterable[TarEntry | PackedTree], position: Position | None = None) -> Iterator[bytes]:
    """The tar of `entries`, in chunks of at most 1 MiB.

    It sets `position` to the length of the tar so far, before it takes an entry. Raises TreeError for a file
    whose size differs from its entry's, FormatError for a name with a NUL.
    """
    position = position or Position()
    position.bytes = 0
    parts: list[bytes] = []
    length = 0
    for piece in chain(_make_blocks(entries), (bytes(2 * _BLOCK),)):
        position.bytes += len(piece)
        length += len(piece)
        if length > CHUNK:
            yield b"".join(parts)
            parts.clear()
            length = len(piece)
        parts.append(piece)
    yield b"".join(parts)


def digest(chunks: Iterable[bytes]) -> tuple[Digest, int]:
    """The digest of `chunks`, and their length in bytes. For the tar of a layer this is its diff ID.

    A thread hashes each chunk except the last while the next one is made, which takes about as long.
    """
    total, size, last = hashlib.sha256(), 0, b""
    with Pipeline(total.update, "digest") as beside:
        for chunk in chunks:
            if size:
                beside.submit(last)
            size, last = size + len(chunk), chunk
        beside.wait()
    total.update(last)
    return Digest(total.hexdigest()), size


def _make_blocks(entries: Iterable[TarEntry | PackedTree]) -> Iterator[bytes]:
    """The bytes of each entry: its header, then a file's content and padding. A small file is one piece."""
    with ExitStack() as reading:
        last: TreeView | None = None
        for entry in entries:
            if isinstance(entry, PackedTree):
                yield from entry.chunks()
                continue
            if entry.at is not None and entry.size <= _SMALL:
                view, path = entry.at
                if view is not last:
                    reading.close()
                    first, last = reading.enter_context(view.head_reader()), view
                # Ask for one byte more, to notice that the file has grown. If its size has changed, the code
                # below reads it again and raises the error.
                data = first(path, entry.size + 1)
                if len(data) == entry.size:
                    yield b"%b%b%b" % (header(entry), data, _ZEROS[: -entry.size % _BLOCK])
                    continue
            yield header(entry)
            start = entry.open if entry.at is None else partial(entry.at[0].open, entry.at[1])
            if start is not None:
                yield from _read_content(entry, start)
                yield _ZEROS[: -entry.size % _BLOCK]


def _read_content(entry: TarEntry, start: Callable[[], BinaryIO]) -> Iterator[bytes]:
    """The bytes of a file. It asks for one byte more than it expects, to notice that the file has grown."""
    left = entry.size
    with start() as file:
        while True:
            asked = min(left + 1, CHUNK)
            data = file.read(asked)
            left -= len(data)
            if left < 0:
                raise _changed_error(entry, "grew")
            yield data
            if not data or (not left and len(data) < asked):
                break
    if left:
        raise _changed_error(entry, "shrank")


def _changed_error(entry: TarEntry, verb: str) -> TreeError:
    return TreeError(
        f"{entry.name} {verb} while it was read",
        why=f"it had {entry.size} bytes when the layer was listed",
        fix="Make sure that no process writes to it any more when the build ends, then build again.",
    )


def header(entry: TarEntry) -> bytes:
    """The header blocks of `entry`: one, or three and more with an extended header.

    Raises FormatError for a name or link target with a NUL.
    """
    path, kind, mode, uid, gid, size, target, _, _ = entry
    name = path.encode("utf-8", "surrogateescape")
    link = target.encode("utf-8", "surrogateescape") if target else b""
    if b"\x00" in name or b"\x00" in link:
        raise FormatError(f"{path!r} cannot be put into a layer", why="its name or target has a NUL")
    same = _common_fields(kind, mode, uid, gid)
    fits = len(link) <= _FIELD and uid < _ID_LIMIT and gid < _ID_LIMIT and size < _SIZE_LIMIT
    if fits and name.isascii() and link.isascii():
        if len(name) <= _FIELD:
            return _main_header(same, name, size, kind, link)
        split = _split_name(name)
        if split is not None:
            return _main_header(same, split[1], size, kind, link, split[0])
    rest = size if size < _SIZE_LIMIT else 0
    return _extended_header(entry, name, link) + _main_header(
        same, _shorten_name(name), rest, kind, _shorten_name(link)
    )


def _main_header(
    same: tuple[bytes, bytes, int], name: bytes, size: int, kind: NodeKind, link: bytes, prefix: bytes = b""
) -> bytes:
    numbers, end, total = same
    digits = b"%011o" % size
    total += sum(name) + sum(digits)
    if link or prefix:
        total += sum(link) + sum(prefix)
        end = _header_end(_TYPES[kind], link, _USTAR, prefix)
    return b"%b%b%b%b%06o%b" % (name.ljust(_FIELD, b"\x00"), numbers, digits, _MTIME_FIELD, total, end)


@lru_cache(maxsize=1000)
def _common_fields(kind: NodeKind, mode: int, uid: int, gid: int) -> tuple[bytes, bytes, int]:
    """The parts that many headers share: mode and owner, all after the checksum, and the sum of their bytes.

    The sum also counts the date and the checksum's spaces.
    """
    owner = uid if uid < _ID_LIMIT else 0, gid if gid < _ID_LIMIT else 0
    numbers = b"%07o\x00%07o\x00%07o\x00" % (mode & 0o7777, *owner)
    end = _header_end(_TYPES[kind], b"", _USTAR, b"")
    return numbers, end, sum(numbers) + sum(_MTIME_FIELD) + sum(end) + _UNSUMMED


def _header_end(flag: bytes, link: bytes, fixed: bytes, prefix: bytes) -> bytes:
    """The bytes of a header after the checksum's digits."""
    head = b"\x00 %b%b%b%b" % (flag, link.ljust(_FIELD, b"\x00"), fixed, prefix)
    return head.ljust(_BLOCK - _BEFORE, b"\x00")


def _block(name: bytes, numbers: bytes, flag: bytes, fixed: bytes) -> bytes:
    end = _header_end(flag, b"", fixed, b"")
    total = sum(name) + sum(numbers) + sum(end) + _UNSUMMED
    return b"%b%b%06o%b" % (name.ljust(_FIELD, b"\x00"), numbers, total, end)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """Splits a long `name` at the last slash with at most 155 bytes before it; None if over 100 follow."""
    prefix, slash, rest = name[: _PREFIX + 1].rpartition(b"/")
    rest += name[_PREFIX + 1 :]
    if not slash or not prefix or not 0 < len(rest) <= _FIELD:
        return None
    return prefix, rest


def _extended_header(entry: TarEntry, name: bytes, link: bytes) -> bytes:
    """The PAX header with the fields that do not fit into USTAR. Readers without PAX see it as a file."""
    records = []
    if entry.gid >= _ID_LIMIT:
        records.append((b"gid", b"%d" % entry.gid))
    if len(link) > _FIELD or not link.isascii():
        records.append((b"linkpath", link))
    if len(name) > _FIELD or not name.isascii():
        records.append((b"path", name))
    if entry.size >= _SIZE_LIMIT:
        records.append((b"size", b"%d" % entry.size))
    if entry.uid >= _ID_LIMIT:
        records.append((b"uid", b"%d" % entry.uid))
    data = b"".join(_make_record(key, value) for key, value in records)
    above, _, last = name.rpartition(b"/")
    label = _ascii(above + b"/PaxHeaders.0/" + last)[:_FIELD].rstrip(b"/")
    numbers = b"%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00" % (0, 0, 0, len(data), 0)
    block = _block(label, numbers, b"x", _PAX)
    return block + data + bytes(-len(data) % _BLOCK)


def _make_record(key: bytes, value: bytes) -> bytes:
    """A PAX record: its length in decimal, which counts these digits too, then key and value."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else bytes(byte for byte in text if byte < 0x80)


def _shorten_name(text: bytes) -> bytes:
    """The part of a name that the main header has; a PAX record has the whole name.

    If the last byte is a slash, Go ends the name before it: old readers would take it for a directory's.
    """
    text = _ascii(text)
    field = bytearray(text[:_FIELD])
    if len(text) > _FIELD and field.endswith(b"/"):
        field[len(field[:-1].rstrip(b"/"))] = 0
    return bytes(field)
