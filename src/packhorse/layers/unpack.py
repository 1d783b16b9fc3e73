"""③ Unpacks one layer into a directory of its own, whatever the layer's author had in mind.

Called by store, in a child process that is root of the user namespace whose ids the tree gets. Nothing is
opened by a path: every directory is entered by one name at a time below the target, a link in the way is
resolved by hand with the target as its root, and no entry is ever written through. What whiteouts hide is
told, not done: the store merges layers. Reading headers is `layers.untar`'s.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, HostError, PackhorseError
from packhorse.layers.directories import AUFS, OPAQUE, WHITEOUT, Directories, UnpackLimits, join, shorten
from packhorse.layers.untar import TarHeader, TarReader

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HOST = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.EROFS,
}

_DEFAULT = UnpackLimits()
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class UnpackResult:
    """What a layer held. `files` counts entries written, `bytes` their content, `skipped` devices.

    Paths are relative, decoded with surrogateescape and in the order of the archive. `whiteouts` hide an
    entry of the layers below, `opaque` directories all of theirs. `implied` directories had no entry of their
    own: their mode and owner are made up (0755, root) and a layer below knows better, where one of them may
    even be a link. The top is "".
    """

    files: int
    bytes: int
    skipped: int
    whiteouts: tuple[str, ...]
    opaque: tuple[str, ...]
    implied: tuple[str, ...]


def unpack(
    chunks: Iterable[bytes], target: int | Path, *, owner: bool, limits: UnpackLimits = _DEFAULT
) -> UnpackResult:
    """Unpacks the tar in `chunks`, all of them, into the empty directory `target`, a path or a descriptor.

    `owner` gives entries the ids of their headers, which takes root of a namespace that has them. Modes,
    setuid included, and modification times are kept; extended attributes are not. A later entry replaces an
    earlier one. Raises FormatError for bytes that are no tar, an entry that would leave the target, and a
    limit passed; HostError when this machine cannot hold the tree.
    """
    archive = TarReader(chunks)
    header: TarHeader | None = None
    try:
        with Directories(target, limits=limits, owner=owner) as directories:
            unpacking = _Unpacker(archive, directories, limits=limits)
            for header in archive:
                unpacking.unpack_entry(header)
            directories.finish()
            return unpacking.result()
    except OSError as error:
        raise _unpack_error(header, error) from error


class _Unpacker:
    def __init__(self, archive: TarReader, directories: Directories, *, limits: UnpackLimits) -> None:
        self._archive = archive
        self._directories = directories
        self._limits = limits
        self._entries = self._files = self._bytes = self._skipped = 0
        self._whiteouts: list[bytes] = []
        self._opaque: list[bytes] = []

    def unpack_entry(self, header: TarHeader) -> None:
        """Puts one entry where it belongs, or notes it."""
        self._count(header)
        parts = self._directories.parts(header.name)
        if not parts:
            if header.type != b"5":
                raise FormatError("the top of the layer is not a directory")
            self._directories.set_top_metadata(header)
            return
        name = parts.pop()
        if name.startswith(WHITEOUT):
            self._note_whiteout(self._directories.find(b"/".join(parts)), name)
            return
        here = self._directories.resolve(b"/".join(parts))
        match header.type:
            case b"0":
                self._file(here, name, header)
            case b"5":
                if self._directories.make(here, name, header):
                    self._add_path(self._opaque, join(here, name))
            case b"2":
                self._symlink(here, name, header)
            case b"1":
                self._hard_link(here, name, header)
            case b"6":
                self._replace(here, name, lambda parent: os.mkfifo(name, 0o600, dir_fd=parent))
                self._directories.set_link_metadata(here, name, header)
            case b"3" | b"4":
                # A namespace makes no devices. What the device would have replaced is not there either.
                self._directories.clear(here, name)
                self._add_path(self._whiteouts, join(here, name))
                self._skipped += 1
                return
            case other:
                raise FormatError(f"{shorten(header.name)} has the unknown tar type {other!r}")
        self._files += 1

    def result(self) -> UnpackResult:
        """The account of what was placed."""
        return UnpackResult(
            self._files,
            self._bytes,
            self._skipped,
            tuple(map(os.fsdecode, self._whiteouts)),
            tuple(map(os.fsdecode, self._opaque)),
            tuple(map(os.fsdecode, self._directories.implied)),
        )

    def _count(self, header: TarHeader) -> None:
        self._entries += 1
        self._bytes += header.size
        if self._entries > self._limits.entries:
            raise FormatError(f"the layer has more than {self._limits.entries} entries")
        if self._bytes > self._limits.bytes:
            raise FormatError(f"the layer unpacks to more than {self._limits.bytes} bytes")

    def _note_whiteout(self, here: bytes, name: bytes) -> None:
        """Notes what a whiteout hides (image-spec layer.md, "Whiteouts")."""
        hidden = name.removeprefix(WHITEOUT)
        if name == OPAQUE:
            self._add_path(self._opaque, here)
        elif hidden in (b"", b".", b".."):
            raise FormatError(f"{shorten(join(here, name))} is a whiteout of nothing")
        elif not name.startswith(AUFS):
            self._add_path(self._whiteouts, join(here, hidden))

    def _add_path(self, paths: list[bytes], path: bytes) -> None:
        self._directories.count_path(path)
        paths.append(path)

    def _file(self, here: bytes, name: bytes, header: TarHeader) -> None:
        file = self._replace(here, name, lambda parent: os.open(name, _NEW, 0o600, dir_fd=parent))
        try:
            end = 0
            for offset, piece in self._archive.content():
                while piece:
                    count = os.pwrite(file, piece, offset)
                    piece, offset = piece[count:], offset + count
                end = offset
            if end < header.size:
                os.ftruncate(file, header.size)  # a sparse file that ends in a hole
            self._directories.set_metadata(file, header)
        finally:
            os.close(file)

    def _symlink(self, here: bytes, name: bytes, header: TarHeader) -> None:
        if not header.link:
            raise FormatError(f"{shorten(header.name)} is a link without a target")
        self._replace(here, name, lambda parent: os.symlink(header.link, name, dir_fd=parent))
        self._directories.set_link_metadata(here, name, header)

    def _hard_link(self, here: bytes, name: bytes, header: TarHeader) -> None:
        parts = self._directories.parts(header.link)
        if not parts:
            raise FormatError(f"{shorten(header.name)} is a hard link to the top of the layer")
        first = parts.pop()
        source = self._directories.resolve(b"/".join(parts))
        if (source, first) == (here, name):
            return
        directory = os.dup(self._directories.descriptor(source))
        try:
            self._replace(
                here,
                name,
                lambda parent: os.link(
                    first, name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False
                ),
            )
        except FileNotFoundError as error:
            raise FormatError(
                f"{shorten(header.name)} is a hard link to {shorten(header.link)}",
                why="the layer has no such entry before it",
            ) from error
        finally:
            os.close(directory)

    def _replace(self, here: bytes, name: bytes, make: Callable[[int], _Made]) -> _Made:
        """Makes the entry `name` in `here`, in place of what is there."""
        try:
            return make(self._directories.descriptor(here))
        except FileExistsError:
            self._directories.clear(here, name)
            return make(self._directories.descriptor(here))


def _unpack_error(header: TarHeader | None, error: OSError) -> PackhorseError:
    what = f"{shorten(header.name)} cannot be unpacked" if header else "the layer cannot be unpacked"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return HostError(what, why=os.strerror(error.errno), fix="allow more: ulimit -n 1024", check="limits")
    if error.errno in _HOST:
        fix = "make room, or use another directory"
        return HostError(what, why=os.strerror(error.errno), fix=fix, check="disk")
    return FormatError(what, why=str(error.strerror))
