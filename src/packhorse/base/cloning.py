"""Files copied by the kernel: blocks are shared where the file system can (btrfs, xfs), else copied.

Called by `source` and `store` for what has to be a file of its own. Never a hard link: what is written to the
one would be in the other.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

_FICLONE = 0x40049409
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM, errno.EBADF}
_AT_ONCE = 1 << 30


def pour(original: int, made: int) -> None:
    """Copies what a file has, a descriptor, into another, which is new and empty; raises OSError."""
    if _share(original, made):
        return
    with suppress(OSError):  # file systems, and kernels, that cannot
        while os.copy_file_range(original, made, _AT_ONCE):
            pass
    # From where they stand: of what was copied whole nothing is left.
    while os.sendfile(made, original, None, _AT_ONCE):
        pass


def _share(original: int, made: int) -> bool:
    try:
        fcntl.ioctl(made, _FICLONE, original)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True
