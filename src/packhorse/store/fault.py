"""What the operating system refuses, in the words of the store. Called by every file of this folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StoreError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise _fault(error, path) from error


def _fault(error: OSError, path: Path) -> StoreError:
    why = error.strerror or str(error)
    if error.errno in _FULL:
        fix = "free some space there, for instance with `packhorse gc`, and run the same command again"
        return StoreError(f"no space left for the store at {path}", why=why, fix=fix)
    if error.errno in _REFUSED:
        fix = "make it writable for this user, or choose another place for the store"
        return StoreError(f"the store cannot be written at {path}", why=why, fix=fix)
    return StoreError(f"the store cannot be used at {path}", why=why)
