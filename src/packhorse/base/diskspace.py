"""Whether a disk is full; called where the kernel or a program does not say so by an error number.

overlayfs, for one, mounts read-only when it cannot make its work directory, and every write answers EROFS.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

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
