"""③ The directories of a layer being unpacked: entered name by name, never left, their attributes given last.

Called by `layers.unpack` alone. Paths here are relative bytes without `.` and `..`; a resolved one has no
link in it.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, HostError
from packhorse.layers.untar import TarHeader

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TARGET = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN = 64  # descriptors kept; a process has 1024 by default
_STEPS = 1024  # names looked up on one way through links; more is a loop, or meant to cost time
_IMPLIED = TarHeader(b"", b"5", 0o755, 0, 0, 0, 0, b"")

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
AUFS = b".wh..wh."
"""How the names of aufs's own files begin, which docker passes over too, but for the links to them."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """The most that a layer may hold: entries, bytes of content, bytes of one name, names in one path.

    `paths` bounds the bytes that are remembered of names, `lookups` the names looked up on the way to
    entries: links can make both many times what the archive has.
    """

    entries: int = 1_000_000
    bytes: int = 64 << 30
    name: int = 255
    depth: int = 256
    paths: int = 256 << 20
    lookups: int = 32_000_000


class Directories:
    """The tree below `target`, of which this object must be the only writer; a context manager."""

    def __init__(self, target: int | Path, *, limits: UnpackLimits, owner: bool) -> None:
        self._root = os.dup(target) if isinstance(target, int) else os.open(target, _TARGET)
        self._limits = limits
        self._owner = owner
        self._headers: dict[bytes, TarHeader | None] = {}  # of every directory there is; None when implied
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
    def implied(self) -> list[bytes]:
        """The directories that came to be without an entry of their own; the top ("") may be one."""
        top = [] if b"" in self._headers else [b""]
        return top + [path for path, header in self._headers.items() if header is None]

    def parts(self, name: bytes) -> list[bytes]:
        """The names in an entry's name, leading slashes and dots dropped.

        Raises FormatError for `..`, and for a name or a depth beyond the limits.
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
        """The directory that `path` means, links on the way resolved inside the tree; made if missing."""
        known = self._resolved.get(path)
        if known is None:
            above, _, name = path.rpartition(b"/")
            known = self._walk(self.resolve(above), name)
            self.count_path(path)
            self._resolved[path] = known
        return known

    def find(self, path: bytes) -> bytes:
        """The directory that `path` means, as `resolve` has it, whether the layer has one there or not."""
        here = b""
        for name in path.split(b"/") if path else ():
            here = self._walk(here, name, make=False)
        return here

    def count_path(self, path: bytes) -> None:
        """Counts the bytes of a path that is kept until the end."""
        self._remembered += len(path)
        if self._remembered > self._limits.paths:
            raise FormatError(
                "the layer's names are too long",
                why=f"all together have more than {self._limits.paths} bytes",
            )

    def descriptor(self, path: bytes) -> int:
        """The open directory at the resolved `path`: valid until the next call of any method."""
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
        """Makes the directory `name` in `here`, or takes the one there, to get the attributes of `header`.

        Says whether it took the place of something else, so that it is empty whatever lies below the layer.
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
        """Notes that the top of the tree is to get the attributes of `header`."""
        self._headers[b""] = header

    def clear(self, here: bytes, name: bytes) -> None:
        """Removes the entry `name` in `here`, with all below it; a missing one is no error."""
        self._resolved = {b"": b""}
        parent = self.descriptor(here)
        path = join(here, name)
        if path in self._headers:
            self._remove(parent, name, path)
        else:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)

    def set_metadata(self, descriptor: int, header: TarHeader) -> None:
        """Gives an open file or directory the attributes of `header`: mode last, chown clears setuid."""
        if self._owner:
            with _explain_refused_ids(header):
                os.fchown(descriptor, header.uid, header.gid)
        os.fchmod(descriptor, header.mode)
        os.utime(descriptor, ns=(header.mtime, header.mtime))

    def set_link_metadata(self, here: bytes, name: bytes, header: TarHeader) -> None:
        """Gives a link or FIFO, `name` in `here`, the attributes of `header`; links have no mode."""
        parent = self.descriptor(here)
        if self._owner:
            with _explain_refused_ids(header):
                os.chown(name, header.uid, header.gid, dir_fd=parent, follow_symlinks=False)
        if header.type == b"6":
            os.chmod(name, header.mode, dir_fd=parent)
        os.utime(name, ns=(header.mtime, header.mtime), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Gives every directory its attributes, after which nothing more can be placed: deepest first."""
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
        """The target of the link `name` in `here`; None when it is a directory, which it is to become."""
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
    """Says it when the ids of `header` are not ours to give."""
    try:
        yield
    except OSError as error:
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
    """A name from an archive as it may be printed: at most 200 bytes."""
    return name[:200].decode("utf-8", "backslashreplace")
