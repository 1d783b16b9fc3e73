"""Turns directories into uncompressed layer bytes, the same as Go's archive/tar writes for the reference.

Entries have the order and owners that the reference gives them (lifecycle v0.21 `layers/`, `archive/`). The
caller makes the entries above a layer's directory, and those of the launcher layers, with
`TarEntry.directory` and its siblings. They never come from stat, because what the host has there must not
reach a digest.

A header is USTAR where every field fits and PAX otherwise. Each entry has the date 1980-01-01T00:00:01Z and
no user name. Two zero blocks end the tar, without further padding.
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
"""A path below some directory ("" for itself), and the entry there."""


class TarEntry(NamedTuple):
    """One entry of a layer; a tuple, as `Node` is. `name` is absolute, and has no slash at its end.

    `mode` has the twelve permission bits. A file has `size`, in bytes, and of these it is told where they
    are `at`, a tree and the path in it, or what starts a pass over them (`open`). `link` is a link's target.
    Text is decoded with surrogateescape.
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
        """A directory that no tree has, such as a parent of a layer."""
        return cls(name, NodeKind.DIRECTORY, mode, uid, gid)

    @classmethod
    def symlink(cls, name: str, target: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Self:
        """A link that no tree has."""
        return cls(name, NodeKind.LINK, mode, uid, gid, link=target)

    @classmethod
    def file(cls, name: str, size: int, open: Callable[[], BinaryIO], *, mode: int = 0o755) -> Self:
        """A file of root's that comes from elsewhere, such as the launcher."""
        return cls(name, NodeKind.FILE, mode, 0, 0, size=size, open=open)


class PackedTree(NamedTuple):
    """In the place of all entries below a directory, the bytes that they were in a tar before.

    `path` is the directory's, with a slash at its end: behind it they stand, as a `Found` behind its own.
    """

    path: str
    chunks: Callable[[], Iterator[bytes]]


class Position:
    """How many bytes of a tar there are so far."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def directory_entries(
    view: TreeView, path: str, *, uid: int, gid: int, parents: Sequence[TarEntry] = ()
) -> Iterator[TarEntry]:
    """The layer made of the directory `path`: `parents`, then the directory and all below it, of one owner.

    An entry whose name is among `parents` is written once, as it is there. Sockets and devices are left out.
    Raises TreeError when `path` is not a directory.
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
    """The layer made of what was `found` below `path`, and no more: `parents`, then the rest in its order.

    It is empty, without even `parents`, when nothing was found (B-085). Owners and doubles as in
    `directory_entries`.
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
    """Everything from `path` down: a directory before its entries, those in byte order, no link followed."""
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
    """Makes the entry of what is below `path`; None of what is among `parents`, and of what no layer has."""
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
"""The most bytes in one piece of a stream."""

_SMALL = 1 << 18
"""Bytes up to which a file of a tree is read at once."""

_BLOCK = 512
_FIELD = 100  # bytes for a name or link target in a USTAR header
_PREFIX = 155  # bytes for the leading directories of a longer name
_ID_LIMIT = 1 << 21  # seven octal digits
_SIZE_LIMIT = 1 << 33  # eleven octal digits
_TYPES = {NodeKind.FILE: b"0", NodeKind.LINK: b"2", NodeKind.DIRECTORY: b"5", NodeKind.FIFO: b"6"}
_MTIME_FIELD = b"\x00%011o\x00" % 315532801  # 1980-01-01T00:00:01Z, behind the size
_USTAR = b"ustar\x0000" + bytes(64) + b"0000000\x00" * 2  # no user and group name, device 0/0 in digits
_PAX = b"ustar\x0000" + bytes(80)  # Go leaves the device of an extended header empty
_ZEROS = bytes(_BLOCK)
_BEFORE = 154  # bytes of a block before the end of the checksum's digits
_UNSUMMED = 7 * 0x20  # POSIX sums a header with its checksum taken as eight spaces, of which one is there


def stream(entries: Iterable[TarEntry | PackedTree], position: Position | None = None) -> Iterator[bytes]:
    """The tar of `entries`, in chunks of at most 1 MiB.

    `position` is told how long it is, before each of `entries` is asked for. Raises TreeError for a file that
    has another size than its entry says, FormatError for a name with a NUL.
    """
    position = position or Position()
    position.bytes = 0
    parts: list[bytes] = []
    length = 0
    for piece in chain(_blocks(entries), (bytes(2 * _BLOCK),)):
        position.bytes += len(piece)
        length += len(piece)
        if length > CHUNK:
            yield b"".join(parts)
            parts.clear()
            length = len(piece)
        parts.append(piece)
    yield b"".join(parts)


def digest(chunks: Iterable[bytes]) -> tuple[Digest, int]:
    """The digest of all `chunks`, a layer's diff ID when they are its tar, and their length in bytes.

    A thread hashes each, but for the last, while the next is made: to read many files takes as long.
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


def _blocks(entries: Iterable[TarEntry | PackedTree]) -> Iterator[bytes]:
    """For each entry its header, and of a file its content and what fills its last block: a small one's as
    one piece.
    """
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
                # One byte more is asked for, so growth is seen; what has changed is told by who reads again.
                data = first(path, entry.size + 1)
                if len(data) == entry.size:
                    yield b"%b%b%b" % (header(entry), data, _ZEROS[: -entry.size % _BLOCK])
                    continue
            yield header(entry)
            start = entry.open if entry.at is None else partial(entry.at[0].open, entry.at[1])
            if start is not None:
                yield from _content(entry, start)
                yield _ZEROS[: -entry.size % _BLOCK]


def _content(entry: TarEntry, start: Callable[[], BinaryIO]) -> Iterator[bytes]:
    """The bytes of a file. One more than are left is asked for, so growth is seen without another read."""
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
    """The header blocks of `entry`: one, or with an extended header before it three or more.

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
        split = _split(name)
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
    """What most headers have in common: mode and owner, what follows the checksum, and the sum of both."""
    owner = uid if uid < _ID_LIMIT else 0, gid if gid < _ID_LIMIT else 0
    numbers = b"%07o\x00%07o\x00%07o\x00" % (mode & 0o7777, *owner)
    end = _header_end(_TYPES[kind], b"", _USTAR, b"")
    return numbers, end, sum(numbers) + sum(_MTIME_FIELD) + sum(end) + _UNSUMMED


def _header_end(flag: bytes, link: bytes, fixed: bytes, prefix: bytes) -> bytes:
    """What follows the checksum."""
    head = b"\x00 %b%b%b%b" % (flag, link.ljust(_FIELD, b"\x00"), fixed, prefix)
    return head.ljust(_BLOCK - _BEFORE, b"\x00")


def _block(name: bytes, numbers: bytes, flag: bytes, fixed: bytes) -> bytes:
    end = _header_end(flag, b"", fixed, b"")
    total = sum(name) + sum(numbers) + sum(end) + _UNSUMMED
    return b"%b%b%06o%b" % (name.ljust(_FIELD, b"\x00"), numbers, total, end)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """A long `name` cut at the last slash with at most 155 bytes before it, if 100 then hold the rest."""
    prefix, slash, rest = name[: _PREFIX + 1].rpartition(b"/")
    rest += name[_PREFIX + 1 :]
    if not slash or not prefix or not 0 < len(rest) <= _FIELD:
        return None
    return prefix, rest


def _extended_header(entry: TarEntry, name: bytes, link: bytes) -> bytes:
    """The PAX header with what USTAR cannot say; its own name only helps readers that do not know it."""
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
    data = b"".join(_record(key, value) for key, value in records)
    above, _, last = name.rpartition(b"/")
    label = _ascii(above + b"/PaxHeaders.0/" + last)[:_FIELD].rstrip(b"/")
    numbers = b"%07o\x00%07o\x00%07o\x00%011o\x00%011o\x00" % (0, 0, 0, len(data), 0)
    block = _block(label, numbers, b"x", _PAX)
    return block + data + bytes(-len(data) % _BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    """A PAX record: its length in decimal, counting those digits too, then key and value."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)


def _ascii(text: bytes) -> bytes:
    return text if text.isascii() else bytes(byte for byte in text if byte < 0x80)


def _shorten_name(text: bytes) -> bytes:
    """What the main header keeps of a name that a PAX record has whole.

    Where the cut falls on a slash, Go ends the name before it: old readers would take it for a directory's.
    """
    text = _ascii(text)
    field = bytearray(text[:_FIELD])
    if len(text) > _FIELD and field.endswith(b"/"):
        field[len(field[:-1].rstrip(b"/"))] = 0
    return bytes(field)
