"""Unpacks one hostile layer into a directory of its own.

`store.userns_worker` calls it as root of a user namespace, which gives the tree the owners of that namespace.
It opens no path of several names: it enters each directory below the target by one name. It resolves links on
the way itself, with the target as their root, and writes no entry through a link. Directories get their
attributes last. The result lists what whiteouts hide; `fs.apply` removes that when the store merges layers.

Paths here are relative, in bytes, without `.` and `..`. A resolved path has no link in it.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, HostError, PackhorseError
from packhorse.tar.reader import TarHeader, TarReader

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TARGET = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN = 64  # directories that stay open; a process may usually have 1024 descriptors
_STEPS = 1024  # the most names that resolving one link may look up: more is a loop, or an attack
_IMPLIED = TarHeader(b"", b"5", 0o755, 0, 0, 0, 0, b"")
_LAST_ID = 65535  # `linux.userns.SIZE`

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS = b".wh..wh."
"""The prefix of aufs's own files. Like docker, unpacking drops them, but keeps hard links to them."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """The limits for one layer: entries, bytes of content, bytes of one name, names in one path.

    `paths` limits the bytes of all paths in memory, `lookups` the names looked up on the way to entries.
    Links can make both far larger than the archive.
    """

    entries: int = 1_000_000
    bytes: int = 64 << 30
    name: int = 255
    depth: int = 256
    paths: int = 256 << 20
    lookups: int = 32_000_000


class Directories:
    """Makes and removes directories below `target`. Nothing else may write there. A context manager."""

    def __init__(self, target: int | Path, *, limits: UnpackLimits, owner: bool) -> None:
        self._root = os.dup(target) if isinstance(target, int) else os.open(target, _TARGET)
        self._limits = limits
        self._owner = owner
        self._headers: dict[bytes, TarHeader | None] = {}  # of all directories; None for an implied one
        self._open: OrderedDict[bytes, int] = OrderedDict()
        self._resolved: dict[bytes, bytes] = {b"": b""}
        self._aufs: set[bytes] = set()
        self._remembered = self._looked_up = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (*self._open.values(), self._root):
            os.close(descriptor)

    @property
    def implied_directories(self) -> list[bytes]:
        """The directories that have no entry of their own, among them perhaps the top ("")."""
        top = [] if b"" in self._headers else [b""]
        return top + [path for path, header in self._headers.items() if header is None]

    def parts(self, name: bytes) -> list[bytes]:
        """Splits an entry's name at its slashes, and drops empty names and dots.

        Raises FormatError for `..`, for a name that is too long, and for too many names.
        """
        parts = [part for part in name.split(b"/") if part and part != b"."]
        if b".." in parts:
            raise FormatError(f"{shorten(name)} leads out of its layer", why="a name must not have .. in it")
        if len(parts) > self._limits.depth or any(len(part) > self._limits.name for part in parts):
            raise FormatError(
                f"{shorten(name)} is too long",
                why=f"names have at most {self._limits.name} bytes, paths {self._limits.depth} names",
            )
        return parts

    def resolve(self, path: bytes) -> bytes:
        """The directory that `path` leads to, with links resolved inside the tree; makes missing ones."""
        known = self._resolved.get(path)
        if known is None:
            above, _, name = path.rpartition(b"/")
            known = self._walk(self.resolve(above), name)
            self.count_path(path)
            self._resolved[path] = known
        return known

    def find(self, path: bytes) -> bytes:
        """Resolves `path` as `resolve` does, but makes no directory."""
        here = b""
        for name in path.split(b"/") if path else ():
            here = self._walk(here, name, make=False)
        return here

    def count_path(self, path: bytes) -> None:
        """Counts the bytes of a path that stays in memory. Raises FormatError at the limit."""
        self._remembered += len(path)
        if self._remembered > self._limits.paths:
            raise FormatError(
                "the layer's names are too long",
                why=f"all together have more than {self._limits.paths} bytes",
            )

    def descriptor(self, path: bytes) -> int:
        """A descriptor of the directory at the resolved `path`, valid until the next call of any method."""
        if not path:
            return self._root
        found = self._open.get(path)
        if found is None:
            above, _, name = path.rpartition(b"/")
            found = self._cache_descriptor(path, os.open(name, _DIRECTORY, dir_fd=self.descriptor(above)))
        else:
            self._open.move_to_end(path)
        return found

    def make(self, here: bytes, name: bytes, header: TarHeader) -> bool:
        """Makes the directory `name` in `here` if it is missing, and notes its `header` for `finish`.

        Returns whether it replaced an entry of another kind; such a directory hides those of lower layers.
        """
        path = join(here, name)
        replaced = False
        if path not in self._headers:
            try:
                self._mkdir(here, name)
            except FileExistsError:
                self.clear(here, name)
                self._mkdir(here, name)
                replaced = True
        self._headers[path] = header
        return replaced

    def set_top_metadata(self, header: TarHeader) -> None:
        """Notes the header from which `finish` takes the attributes of the top directory."""
        self._headers[b""] = header

    def clear(self, here: bytes, name: bytes) -> None:
        """Removes the entry `name` in `here` and everything below it; a missing entry is no error."""
        self._resolved = {b"": b""}
        parent = self.descriptor(here)
        path = join(here, name)
        if path in self._headers:
            self._remove(parent, name, path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)

    def set_metadata(self, descriptor: int, header: TarHeader) -> None:
        """Gives an open file or directory its owner, mode and time; chown first, because it clears setuid."""
        if self._owner:
            with _explain_refused_ids(header):
                os.fchown(descriptor, header.uid, header.gid)
        os.fchmod(descriptor, header.mode)
        os.utime(descriptor, ns=(header.mtime, header.mtime))

    def set_link_metadata(self, here: bytes, name: bytes, header: TarHeader) -> None:
        """Gives the link or FIFO `name` in `here` its owner and time, and a FIFO its mode."""
        parent = self.descriptor(here)
        if self._owner:
            with _explain_refused_ids(header):
                os.chown(name, header.uid, header.gid, dir_fd=parent, follow_symlinks=False)
        if header.type == b"6":
            os.chmod(name, header.mode, dir_fd=parent)
        os.utime(name, ns=(header.mtime, header.mtime), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Removes aufs's own directories, then gives every directory its attributes, the deepest first.

        Call it last: afterwards directories may deny access.
        """
        for path in sorted(self._aufs):
            here, _, name = path.rpartition(b"/")
            if path in self._headers:
                self.clear(here, name)
        for path in sorted(self._headers, reverse=True):
            self.set_metadata(self.descriptor(path), self._headers[path] or _IMPLIED)

    def _walk(self, here: bytes, name: bytes, *, make: bool = True) -> bytes:
        pending = [name]
        for _ in range(_STEPS):
            if not pending:
                return here
            self._looked_up += 1
            name = pending.pop()
            if name == b"..":
                here = here.rpartition(b"/")[0]
            elif name and name != b".":
                link = self._enter(here, name, make=make)
                if link is None:
                    here = join(here, name)
                else:
                    here = b"" if link.startswith(b"/") else here
                    pending += reversed(link.split(b"/"))
            if self._looked_up > self._limits.lookups:
                raise FormatError(f"the layer has more than {self._limits.lookups} names to look up")
        raise FormatError(f"{shorten(join(here, name))} is reached through too many links")

    def _enter(self, here: bytes, name: bytes, *, make: bool) -> bytes | None:
        """The target of the link `name` in `here`; None if it is a directory, or missing.

        With `make` it makes a missing directory.
        """
        path = join(here, name)
        if path in self._open:
            return None
        if path not in self._headers:
            try:
                return os.readlink(name, dir_fd=self.descriptor(here))
            except FileNotFoundError:
                self._check(path, name)
                if make:
                    self._mkdir(here, name)
                    self._headers[path] = None
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise FormatError(
                    f"{shorten(path)} is not a directory", why="a later entry of the layer lies below it"
                ) from error
        return None

    @staticmethod
    def _check(path: bytes, name: bytes) -> None:
        if name.startswith(WHITEOUT) and (name == OPAQUE or not name.startswith(AUFS)):
            raise FormatError(
                f"{shorten(path)} is a directory", why="names that begin with .wh. are those of whiteouts"
            )

    def _mkdir(self, here: bytes, name: bytes) -> None:
        path = join(here, name)
        if name.startswith(AUFS):
            self._aufs.add(path)
        self.count_path(path)
        if here.count(b"/") + 2 > self._limits.depth:
            raise FormatError(f"{shorten(path)} lies deeper than {self._limits.depth} directories")
        if len(self._headers) >= self._limits.entries:
            raise FormatError(f"the layer has more than {self._limits.entries} directories")
        os.mkdir(name, 0o700, dir_fd=self.descriptor(here))

    def _remove(self, parent: int, name: bytes, path: bytes) -> None:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            with os.scandir(descriptor) as entries:
                children = [os.fsencode(entry.name) for entry in entries]
            for child in children:
                below = join(path, child)
                if below in self._headers:
                    self._remove(descriptor, child, below)
                else:
                    os.unlink(child, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        os.rmdir(name, dir_fd=parent)
        del self._headers[path]
        if path in self._open:
            os.close(self._open.pop(path))

    def _cache_descriptor(self, path: bytes, descriptor: int) -> int:
        self._open[path] = descriptor
        if len(self._open) > _OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


@contextmanager
def _explain_refused_ids(header: TarHeader) -> Iterator[None]:
    """Turns the OSError of a refused chown(2) into a HostError that names the entry and its ids."""
    try:
        yield
    except OSError as error:
        if max(header.uid, header.gid) > _LAST_ID:  # of which no user and not even root can get more
            raise HostError(
                f"{shorten(header.name)} belongs to {header.uid}:{header.gid}, which no sandbox has",
                why=f"a sandbox has the ids 0 to {_LAST_ID}",
                fix="give the file another owner in that image (packhorse build: --uid, --gid)",
            ) from error
        raise HostError(
            f"{shorten(header.name)} belongs to {header.uid}:{header.gid}, which this user cannot give it",
            why=f"{error.strerror}: the ids of the user namespace do not reach so far",
            fix="give the user more subordinate ids in /etc/subuid and /etc/subgid",
            check="subordinate-ids",
        ) from error


def join(here: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory `here`, which is empty for the top."""
    return here + b"/" + name if here else name


def shorten(name: bytes) -> str:
    """A name from an archive for messages: its first 200 bytes."""
    return name[:200].decode("utf-8", "backslashreplace")


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
    """The result of unpacking: `files` counts entries written, `bytes` the content, `skipped` the devices.

    Paths are relative, decoded with surrogateescape, in the order of the archive. A path in `whiteouts` hides
    an entry of the layers below; a directory in `opaque` hides all their entries in it. Directories in
    `implied` have no entry of their own. They got mode 0755 and owner root; a lower layer has the right
    attributes, or even a link there. The top is "".
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
    """Unpacks the tar in `chunks` into the empty directory `target`, a path or a descriptor.

    With `owner`, entries get the ids in their headers; that needs root of a namespace that has them. It keeps
    modes, setuid included, and modification times, but no extended attributes. A later entry replaces an
    earlier one. Raises FormatError for bytes that are no tar, an entry that would leave the target, and a
    limit exceeded; HostError if this machine cannot hold the tree.
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
    """Unpacks the entries of one archive."""

    def __init__(self, archive: TarReader, directories: Directories, *, limits: UnpackLimits) -> None:
        self._archive = archive
        self._directories = directories
        self._limits = limits
        self._entries = self._files = self._bytes = self._skipped = 0
        self._whiteouts: list[bytes] = []
        self._opaque: list[bytes] = []

    def unpack_entry(self, header: TarHeader) -> None:
        """Writes one entry, or notes a whiteout."""
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
                # No user namespace can make a device. It still hides what it would have replaced.
                self._directories.clear(here, name)
                self._add_path(self._whiteouts, join(here, name))
                self._skipped += 1
                return
            case other:
                raise FormatError(f"{shorten(header.name)} has the unknown tar type {other!r}")
        self._files += 1

    def result(self) -> UnpackResult:
        """The result, after `Directories.finish`."""
        return UnpackResult(
            self._files,
            self._bytes,
            self._skipped,
            tuple(map(os.fsdecode, self._whiteouts)),
            tuple(map(os.fsdecode, self._opaque)),
            tuple(map(os.fsdecode, self._directories.implied_directories)),
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
        """Calls `make` with the directory `here`, again after removing the entry `name` if it exists."""
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
