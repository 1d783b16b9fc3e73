"""Whether a disk is full; called where the kernel or a program does not say so by an error number.

overlayfs, for one, mounts read-only when it cannot make its work directory, and every write answers EROFS.

Files that a user names: looked up, read and written, with an answer for whatever may be there.

Called by `cli`, `source`, `image` and `platform` for words of a command line and settings. Files of a sandbox
are `base.tree`'s, images `oci.files`'s, the store's own `store`'s.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from packhorse.errors import InputError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The error numbers of a full disk, and of a user who may have no more of it."""

_FILES, _BYTES = 16, 128 << 10
"""What has to fit. More than what failed may have needed, because some of that is free again by now."""


def find_shortage(directory: Path) -> str:
    """Tries to make some files in `directory`; the system's words if they do not fit, else "".

    A trial also meets quotas, which statvfs(2) does not show.
    """
    import tempfile  # only what has failed pays for it

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


_LIMIT = 1 << 20


def resolve(path: Path) -> Path | None:
    """What `path` leads to, absolute and without links; None when nothing is there.

    InputError when that cannot be told: links in a circle, a directory that may not be searched, a name that
    is too long.
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
        raise InputError(f"{_display_path(path)} is no path", why=str(error)) from error


def is_file(path: str | Path) -> bool:
    """Whether `path` leads to a file; false where this user may not look it up, or no path can be so."""
    return os.path.isfile(path)  # noqa: PTH113 -- Path's own raises PermissionError


def exists(path: str | Path) -> bool:
    """Whether `path` leads to anything; false as for `is_file`."""
    return os.path.exists(path)  # noqa: PTH110 -- Path's own raises PermissionError


def is_directory(path: str | Path) -> bool:
    """Whether `path` leads to a directory; false as for `is_file`."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path's own raises PermissionError


def read(path: Path, *, limit: int = _LIMIT) -> bytes:
    """The content of `path`, pipes too; InputError when there is none, or more than `limit` bytes of it."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"{_display_path(path)} cannot be read", why=error.strerror or str(error)) from error
    except ValueError as error:
        raise InputError(f"{_display_path(path)} is no path", why=str(error)) from error
    if len(data) > limit:
        raise InputError(
            f"{_display_path(path)} is too large", why=f"at most {limit} bytes are read of such a file"
        )
    return data


def write(path: Path, data: bytes) -> None:
    """Makes `data` the content of `path`, all of it or none; what is no file (a pipe) is written to.

    InputError when that cannot be done.
    """
    partial = None
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # by the name that was given: what /dev/stdout leads to has none
            return
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~_umask()
        import tempfile  # slow to import, and most commands write no such file

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
        raise InputError(f"{_display_path(path)} is no path", why=str(error)) from error
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
