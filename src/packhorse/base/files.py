"""Looks up, reads and writes files that a user names, and finds out whether a disk is full.

Every error becomes an InputError that says what to change. Files of a sandbox are read through `base.tree`,
image files through `oci.files`, and the store's files through `store`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from packhorse.errors import InputError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The error numbers of a full disk and of an exhausted quota."""

_LIMIT = 1 << 20  # bytes that `read` reads unless told otherwise

_FILES, _BYTES = 16, 128 << 10
"""How much `find_shortage` writes. The failed program may have freed some space since it failed."""


def find_shortage(directory: Path) -> str:
    """Writes some files to `directory` and returns the system's error message if they do not fit, else "".

    Call it where the kernel does not report a full disk by an error number. For example, overlayfs mounts
    read-only if it cannot make its work directory, and every write then fails with EROFS. Writing files also
    detects quotas, which statvfs(2) does not show.
    """
    import tempfile  # slow to import, and needed only after a failure

    try:
        with tempfile.TemporaryDirectory(prefix=".room-", dir=directory) as place:
            for number in range(_FILES):
                (Path(place) / f"{number}").touch()
            descriptor = os.open(Path(place) / "bytes", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, _BYTES)
            finally:
                os.close(descriptor)
    except OSError as error:
        return (error.strerror or str(error)) if error.errno in FULL else ""
    return ""


def resolve(path: Path) -> Path | None:
    """Returns the absolute path behind all links, or None if nothing is there.

    Raises InputError for a loop of links, a directory that the user may not search, and a name that is too
    long.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(
            f"{_display_path(path)} cannot be looked up", why=error.strerror or str(error)
        ) from error
    except ValueError as error:
        raise InputError(f"{_display_path(path)} is not a valid path", why=str(error)) from error


def is_file(path: str | Path) -> bool:
    """Whether `path` leads to a file; false if this user may not look it up or `path` is invalid."""
    return os.path.isfile(path)  # noqa: PTH113 -- Path's own raises PermissionError


def exists(path: str | Path) -> bool:
    """Whether `path` leads to anything; false as for `is_file`."""
    return os.path.exists(path)  # noqa: PTH110 -- Path's own raises PermissionError


def is_directory(path: str | Path) -> bool:
    """Whether `path` leads to a directory; false as for `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path's own raises PermissionError


def read(path: Path, *, limit: int = _LIMIT) -> bytes:
    """Returns the content of a file or pipe; InputError if it is missing or has more than `limit` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{_display_path(path)} cannot be read", why=error.strerror or str(error)) from error
    except ValueError as error:
        raise InputError(f"{_display_path(path)} is not a valid path", why=str(error)) from error
    if len(data) > limit:
        raise InputError(
            f"{_display_path(path)} is too large", why=f"at most {limit} bytes are read of such a file"
        )
    return data


def write(path: Path, data: bytes) -> None:
    """Replaces the file at `path` atomically; writes directly to anything else, such as a pipe.

    Raises InputError if that fails.
    """
    partial = None
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # by this name, because the target of /dev/stdout may have none
            return
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
        import tempfile  # slow to import, and most commands write no file

        descriptor, partial = tempfile.mkstemp(prefix=".packhorse-", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(partial).replace(target)
        partial = None
    except FileNotFoundError as error:
        raise InputError(
            f"{_display_path(path)} cannot be written",
            why=f"there is no directory {_display_path(path.parent)}",
            fix="make it, or name another place",
        ) from error
    except OSError as error:
        raise InputError(
            f"{_display_path(path)} cannot be written", why=error.strerror or str(error)
        ) from error
    except ValueError as error:
        raise InputError(f"{_display_path(path)} is not a valid path", why=str(error)) from error
    finally:
        if partial is not None:
            Path(partial).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _display_path(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}…"
