"""Writes files that appear whole or not at all (`Draft`), and reads files at offsets from several threads.

The layout, the archives and the engine use this. OSErrors become StoreErrors here.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.errors import FormatError, NotFoundError, StoreError
from packhorse.oci.compress import CHUNK

HIDDEN = ".packhorse-"
"""The prefix of unfinished files' names. A killed process leaves such files behind."""


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as a StoreError that names `path`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space there, or write to another place" if full else ""
        raise StoreError(f"{path} cannot be used", why=error.strerror or str(error), fix=fix) from error


class Draft:
    """An unfinished file with a hidden name. Write to `file`, then call `publish`."""

    def __init__(self, file: BinaryIO, hidden: Path) -> None:
        self.file = file
        self._hidden = hidden

    def publish(self, path: Path) -> None:
        """Syncs the file to disk and renames it to `path`, replacing a file there; raises OSError."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._hidden.replace(path)
        _sync_directory(path.parent)


@contextmanager
def open_draft(directory: Path) -> Iterator[Draft]:
    """Opens a draft in `directory`, and removes it after the block unless it was published.

    `publish` can only rename within the same file system. Even a killed process leaves no incomplete file
    under a final name. Raises StoreError for any OSError of the block.
    """
    hidden = directory / f"{HIDDEN}{os.urandom(8).hex()}"
    with map_errors(directory):
        require_directory(directory)
        try:
            with hidden.open("x+b") as file:
                yield Draft(file, hidden)
        finally:
            hidden.unlink(missing_ok=True)


def resolve_target(path: Path) -> Path:
    """Follows symbolic links to the file that a new archive replaces; raises StoreError if it is no file.

    Otherwise root could replace a device by an archive.
    """
    with map_errors(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            kind = "a directory" if target.is_dir() else "a device or a pipe"
            raise StoreError(
                f"{path} cannot be replaced by an archive",
                why=f"it is {kind}",
                fix="name a file",
            )
    return target


def require_directory(directory: Path) -> None:
    """Raises StoreError if the directory does not exist."""
    if not directory.is_dir():
        raise StoreError(
            f"nothing can be written to {directory}",
            why="there is no such directory",
            fix="make it, or name another place",
        )


def _sync_directory(path: Path) -> None:
    """Syncs the names in a directory to disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class OpenFile:
    """An open file that is read at given offsets. It is closed when the object is no longer referenced."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a regular file; raises NotFoundError, StoreError, and FormatError for other kinds of file."""
        with map_errors(path):
            try:
                file = cls(path, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except FileNotFoundError as error:
                raise NotFoundError(f"there is no {path}", fix="check the path of the image") from error
            if not stat.S_ISREG(os.fstat(file._descriptor).st_mode):
                raise FormatError(f"{path} is not a regular file", why="packhorse reads images at any offset")
        return file

    @classmethod
    def spool(cls, directory: Path) -> Self:
        """Opens an unnamed temporary file in `directory`; raises StoreError."""
        with map_errors(directory):
            require_directory(directory)
            with tempfile.TemporaryFile(dir=directory) as file:
                return cls(directory, os.dup(file.fileno()))

    def __del__(self) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """The length in bytes."""
        with map_errors(self._path):
            return os.fstat(self._descriptor).st_size

    def append(self, data: bytes) -> None:
        """Appends bytes to a spool; raises StoreError."""
        with map_errors(self._path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def read_at(self, offset: int, size: int) -> bytes:
        """Reads `size` bytes from `offset` on, fewer only at the end of the file; raises StoreError."""
        parts = []
        with map_errors(self._path):
            while size and (part := os.pread(self._descriptor, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def chunks(self, offset: int = 0, size: int | None = None) -> Iterator[bytes]:
        """Yields the bytes from `offset` on, to the end or at most `size` of them; raises StoreError."""
        end = self.size if size is None else offset + size
        while offset < end and (chunk := self.read_at(offset, min(CHUNK, end - offset))):
            offset += len(chunk)
            yield chunk
