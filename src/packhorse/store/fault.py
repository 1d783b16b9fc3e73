"""What the operating system refuses, in the words of the store. Called by every file of this folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse.base.diskspace import FULL
from packhorse.errors import DiskFull, StoreError

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EXDEV, errno.EMLINK}
_FILES = {errno.EMFILE, errno.ENFILE}
_BROKEN = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODEV, errno.ENXIO, errno.ESTALE}


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StoreError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise make_error(error, path) from error


def is_about(error: OSError, path: Path) -> bool:
    """Whether an OSError that says so, or is one of disks alone, is about something below `path`."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str)]
    return any(Path(name).is_relative_to(path) for name in names) or error.errno in FULL | _BROKEN


def make_error(error: OSError, path: Path) -> StoreError:
    """The StoreError for an OSError about something at `path`."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return DiskFull(f"the store at {path}", why=why)
    if error.errno in REFUSED:
        fix = "make it writable for this user, or choose another place for the store"
        return StoreError(f"the store cannot be written at {path}", why=why, fix=fix, check="store")
    if error.errno in _UNABLE:
        fix = "choose a place for the store on a local file system, such as ext4, xfs, btrfs or tmpfs"
        return StoreError(
            f"the file system at {path} cannot do what a store needs", why=why, fix=fix, check="store"
        )
    if error.errno in _FILES:
        fix = "allow more: ulimit -n 1024"
        return StoreError(f"the store cannot be used at {path}", why=why, fix=fix, check="limits")
    fix = ""
    if error.errno in _BROKEN:
        fix = "the disk or its file system is at fault: see `dmesg`, and check it before anything else"
    return StoreError(f"the store cannot be used at {path}", why=why, fix=fix, check="store")
