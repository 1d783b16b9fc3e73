"""Lists a layer's tar without unpacking it: its entries by path, or the bytes of a few files.

`report` uses it for SBOMs and to compare images. It resolves no links: paths are those in the tar, without
dots and leading slashes. It refuses names with `..`, and accepts depths and lengths that `tar.unpack`
refuses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from enum import StrEnum

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError
from packhorse.tar.reader import TarHeader, TarReader
from packhorse.tar.unpack import AUFS, OPAQUE, WHITEOUT, UnpackLimits, join, shorten


class EntryKind(StrEnum):
    """The kind of an entry. REMOVED hides an entry of the layers below, EMPTIED everything in a directory."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    HARD_LINK = "hard link"
    FIFO = "fifo"
    DEVICE = "device"
    REMOVED = "removed"
    EMPTIED = "emptied"


_KINDS = {
    b"0": EntryKind.FILE,
    b"1": EntryKind.HARD_LINK,
    b"2": EntryKind.LINK,
    b"3": EntryKind.DEVICE,
    b"4": EntryKind.DEVICE,
    b"5": EntryKind.DIRECTORY,
    b"6": EntryKind.FIFO,
}
_DEFAULT = UnpackLimits()
_DATA_LIMIT = 64 << 20  # the most bytes of kept files of one layer
_SHORT = 64  # bytes up to which an extended attribute is listed whole; a capability has 20 or 24


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One entry of a layer. `link` is the target of a link, `content` a digest of the bytes of a file.

    `mode` has the twelve permission bits. `size` is in bytes, 0 unless it is a file. `mtime` is in
    nanoseconds since 1970. `attributes` are the extended attributes, sorted by name: the value in hexadecimal
    digits, or the digest of a long one. `data` are the bytes of a file that was to be kept, else None.
    """

    kind: EntryKind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: str = ""
    content: bytes = b""
    attributes: tuple[tuple[str, str], ...] = ()
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class PickedFiles:
    """The files that were wanted, and the paths that this layer hides in the layers below.

    A path that ends in "/" hides everything in that directory.
    """

    files: dict[str, bytes]
    hidden: frozenset[str]


def list_entries(
    chunks: Iterable[bytes],
    *,
    keep: Callable[[str], bool] = lambda path: False,
    limits: UnpackLimits = _DEFAULT,
) -> dict[str, ListedEntry]:
    """All entries by path: relative, surrogateescape, "." for the top. The last entry with a path counts.

    Files for whose paths `keep` is true have their bytes in `data`, up to 64 MiB in all. A hidden entry is
    listed by its own path; a directory whose content is hidden by its path with "/" at the end. Reads the tar
    to its end. Raises FormatError for bytes that are no tar, a path with `..`, and a limit exceeded.
    """
    found: dict[str, ListedEntry] = {}
    left = _DATA_LIMIT
    archive = TarReader(chunks)
    for header, raw in _walk(archive, limits):
        path, kind = os.fsdecode(raw), _entry_kind(header, raw)
        if kind in (EntryKind.REMOVED, EntryKind.EMPTIED):
            found.setdefault(_hidden_path(path), ListedEntry(kind))
        else:
            kept = kind is EntryKind.FILE and header.size <= left and keep(path)
            left -= header.size if kept else 0
            found[path or "."] = _make_entry(archive, header, kind, keep=kept)
    return found


def merge_layers(
    below: Mapping[str, ListedEntry], above: Mapping[str, ListedEntry]
) -> dict[str, ListedEntry]:
    """Merges the entries of two layers. What the upper one hides stays listed, for the layers below both."""
    hidden = {path for path, entry in above.items() if entry.kind in (EntryKind.REMOVED, EntryKind.EMPTIED)}
    # An entry that replaces a directory hides everything in it.
    directories = _find_directories(below)
    hidden |= {
        path for path, entry in above.items() if path in directories and entry.kind is not EntryKind.DIRECTORY
    }
    kept = {path: entry for path, entry in below.items() if not hidden or not _is_hidden(path, hidden)}
    return kept | dict(above)


def _find_directories(paths: Iterable[str]) -> set[str]:
    """All directories of which `paths` has an entry, whether they have an entry of their own or not."""
    found: set[str] = set()
    for path in paths:
        above = path.rstrip("/").rpartition("/")[0]
        while above and above not in found:
            found.add(above)
            above = above.rpartition("/")[0]
    return found


def pick_files(
    chunks: Iterable[bytes], wanted: Callable[[str], bool], *, limit: int, limits: UnpackLimits = _DEFAULT
) -> PickedFiles:
    """The bytes of the regular files whose paths are `wanted`. Reads and raises as `list_entries` does.

    Raises FormatError too if they have more than `limit` bytes in all.
    """
    files: dict[str, bytes] = {}
    hidden, total = set(), 0
    archive = TarReader(chunks)
    for header, raw in _walk(archive, limits):
        path = os.fsdecode(raw)
        kind = _entry_kind(header, raw)
        if kind in (EntryKind.REMOVED, EntryKind.EMPTIED):
            hidden.add(_hidden_path(path))
        elif wanted(path):
            files.pop(path, None)
            if kind is EntryKind.FILE:
                total += header.size
                if total > limit:
                    raise FormatError(f"{shorten(raw)} is too large", why=f"at most {limit} bytes are read")
                files[path] = _read_bytes(archive, header)
    return PickedFiles(files, frozenset(hidden))


def _walk(archive: TarReader, limits: UnpackLimits) -> Iterator[tuple[TarHeader, bytes]]:
    """Each header with its path, without dots and leading slashes. Raises FormatError beyond the limits."""
    count = total = paths = 0
    for header in archive:
        parts = [part for part in header.name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise FormatError(
                f"{shorten(header.name)} leads out of its layer", why="a name must not have .. in it"
            )
        count, total, paths = count + 1, total + header.size, paths + len(header.name) + len(header.link)
        paths += sum(len(name) for name, _ in header.attributes)
        if count > limits.entries or paths > limits.paths:
            raise FormatError(f"the layer has more than {limits.entries} entries, or very long names")
        if total > limits.bytes:
            raise FormatError(f"the layer unpacks to more than {limits.bytes} bytes")
        yield header, b"/".join(parts)


def _entry_kind(header: TarHeader, path: bytes) -> EntryKind:
    name = path.rpartition(b"/")[2]
    if name == OPAQUE:
        return EntryKind.EMPTIED
    if name.startswith(WHITEOUT) and not name.startswith(AUFS):
        return EntryKind.REMOVED
    kind = _KINDS.get(header.type)
    if kind is None:
        raise FormatError(f"{shorten(header.name)} has the unknown tar type {header.type!r}")
    return kind


def _hidden_path(path: str) -> str:
    """The path that the whiteout at `path` hides."""
    above, _, name = path.rpartition("/")
    if name == os.fsdecode(OPAQUE):
        return f"{above}/"
    return os.fsdecode(join(os.fsencode(above), os.fsencode(name.removeprefix(os.fsdecode(WHITEOUT)))))


def _is_hidden(path: str, hidden: Set[str]) -> bool:
    parts = path.rstrip("/").split("/")
    above = ["/".join(parts[:count]) for count in range(len(parts))]
    return path in hidden or any(f"{name}/" in hidden or name in hidden for name in above)


def _make_entry(archive: TarReader, header: TarHeader, kind: EntryKind, *, keep: bool) -> ListedEntry:
    data = _read_bytes(archive, header) if keep else None
    content = b""
    if kind is EntryKind.FILE:
        content = _digest(archive, header) if data is None else hashlib.sha256(data).digest()
    link = os.fsdecode(header.link) if kind in (EntryKind.LINK, EntryKind.HARD_LINK) else ""
    attributes = tuple(
        sorted((os.fsdecode(name), _shorten_attribute(value)) for name, value in header.attributes)
    )
    size, mtime = header.size, header.mtime
    return ListedEntry(
        kind, header.mode, header.uid, header.gid, size, mtime, link, content, attributes, data
    )


def _shorten_attribute(value: bytes) -> str:
    """The value of an extended attribute in hexadecimal digits, or the digest of a long one."""
    return value.hex() if len(value) <= _SHORT else f"sha256:{hashlib.sha256(value).hexdigest()}"


def _digest(archive: TarReader, header: TarHeader) -> bytes:
    """The SHA-256 of a file's bytes. A sparse file's holes go in by their offsets, not as zeros."""
    total, end = hashlib.sha256(), 0
    for offset, piece in archive.content():
        if offset != end:
            total.update(b"hole %d-%d" % (end, offset))
        total.update(piece)
        end = offset + len(piece)
    if end != header.size:
        total.update(b"hole %d-%d" % (end, header.size))
    return total.digest()


def _read_bytes(archive: TarReader, header: TarHeader) -> bytes:
    data = bytearray(header.size)
    for offset, piece in archive.content():
        data[offset : offset + len(piece)] = piece
    return bytes(data)
