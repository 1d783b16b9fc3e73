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
from packhorse.layers.directories import AUFS, OPAQUE, WHITEOUT, Directories, Limits, join, shown
from packhorse.layers.untar import Archive, Header

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

_DEFAULT = Limits()
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class Unpacked:
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
    chunks: Iterable[bytes], target: int | Path, *, owner: bool, limits: Limits = _DEFAULT
) -> Unpacked:
    """Unpacks the tar in `chunks`, all of them, into the empty directory `target`, a path or a descriptor.

    `owner` gives entries the ids of their headers, which takes root of a namespace that has them. Modes,
    setuid included, and modification times are kept; extended attributes are not. A later entry replaces an
    earlier one. Raises FormatError for bytes that are no tar, an entry that would leave the target, and a
    limit passed; HostError when this machine cannot hold the tree.
    """
    archive = Archive(chunks)
    header: Header | None = None
    try:
        with Directories(target, limits=limits, owner=owner) as directories:
            unpacking = _Unpacking(archive, directories, limits=limits)
            for header in archive:
                unpacking.place(header)
            directories.finish()
            return unpacking.result()
    except OSError as error:
        raise _failed(header, error) from error


class _Unpacking:
    def __init__(self, archive: Archive, directories: Directories, *, limits: Limits) -> None:
        self._archive = archive
        self._directories = directories
        self._limits = limits
        self._entries = self._files = self._bytes = self._skipped = 0
        self._whiteouts: list[bytes] = []
        self._opaque: list[bytes] = []

    def place(self, header: Header) -> None:
        """Puts one entry where it belongs, or notes it."""
        self._count(header)
        parts = self._directories.parts(header.name)
        if not parts:
            if header.type != b"5":
                raise FormatError("the top of the layer is not a directory")
            self._directories.adorn(header)
            return
        name = parts.pop()
        if name.startswith(WHITEOUT):
            self._note(self._directories.find(b"/".join(parts)), name)
            return
        here = self._directories.resolve(b"/".join(parts))
        match header.type:
            case b"0":
                self._file(here, name, header)
            case b"5":
                if self._directories.make(here, name, header):
                    self._tell(self._opaque, join(here, name))
            case b"2":
                self._symlink(here, name, header)
            case b"1":
                self._hard_link(here, name, header)
            case b"6":
                self._replace(here, name, lambda parent: os.mkfifo(name, 0o600, dir_fd=parent))
                self._directories.settle_unopened(here, name, header)
            case b"3" | b"4":
                # A namespace makes no devices. What the device would have replaced is not there either.
                self._directories.clear(here, name)
                self._tell(self._whiteouts, join(here, name))
                self._skipped += 1
                return
            case other:
                raise FormatError(f"{shown(header.name)} has the unknown tar type {other!r}")
        self._files += 1

    def result(self) -> Unpacked:
        """The account of what was placed."""
        return Unpacked(
            self._files,
            self._bytes,
            self._skipped,
            tuple(map(os.fsdecode, self._whiteouts)),
            tuple(map(os.fsdecode, self._opaque)),
            tuple(map(os.fsdecode, self._directories.implied)),
        )

    def _count(self, header: Header) -> None:
        self._entries += 1
        self._bytes += header.size
        if self._entries > self._limits.entries:
            raise FormatError(f"the layer has more than {self._limits.entries} entries")
        if self._bytes > self._limits.bytes:
            raise FormatError(f"the layer unpacks to more than {self._limits.bytes} bytes")

    def _note(self, here: bytes, name: bytes) -> None:
        """Notes what a whiteout hides (image-spec layer.md, "Whiteouts")."""
        hidden = name.removeprefix(WHITEOUT)
        if name == OPAQUE:
            self._tell(self._opaque, here)
        elif hidden in (b"", b".", b".."):
            raise FormatError(f"{shown(join(here, name))} is a whiteout of nothing")
        elif not name.startswith(AUFS):
            self._tell(self._whiteouts, join(here, hidden))

    def _tell(self, told: list[bytes], path: bytes) -> None:
        self._directories.remember(path)
        told.append(path)

    def _file(self, here: bytes, name: bytes, header: Header) -> None:
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
            self._directories.settle(file, header)
        finally:
            os.close(file)

    def _symlink(self, here: bytes, name: bytes, header: Header) -> None:
        if not header.link:
            raise FormatError(f"{shown(header.name)} is a link without a target")
        self._replace(here, name, lambda parent: os.symlink(header.link, name, dir_fd=parent))
        self._directories.settle_unopened(here, name, header)

    def _hard_link(self, here: bytes, name: bytes, header: Header) -> None:
        parts = self._directories.parts(header.link)
        if not parts:
            raise FormatError(f"{shown(header.name)} is a hard link to the top of the layer")
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
                f"{shown(header.name)} is a hard link to {shown(header.link)}",
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


def _failed(header: Header | None, error: OSError) -> PackhorseError:
    what = f"{shown(header.name)} cannot be unpacked" if header else "the layer cannot be unpacked"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return HostError(what, why=os.strerror(error.errno), fix="allow more: ulimit -n 1024", check="limits")
    if error.errno in _HOST:
        fix = "make room, or use another directory"
        return HostError(what, why=os.strerror(error.errno), fix=fix, check="disk")
    return FormatError(what, why=str(error.strerror))
