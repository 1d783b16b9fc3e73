"""Files copied by the kernel: blocks are shared where the file system can (btrfs, xfs), else copied.

Called by `source` and `store` for what has to be a file of its own. Never a hard link: what is written to the
one would be in the other.
"""

from __future__ import annotations

import errno
import fcntl
import os

_FICLONE = 0x40049409
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM, errno.EBADF}
_CHUNK = 1 << 30  # bytes


def copy_content(original: int, copy: int) -> None:
    """Copies what a file has, a descriptor, into another, which is new and empty; holes stay holes.

    Raises OSError.
    """
    if _reflink(original, copy):
        return
    size = os.fstat(original).st_size
    os.truncate(copy, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(original, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole follows
            raise
        end = os.lseek(original, start, os.SEEK_HOLE)
        for descriptor in (original, copy):
            os.lseek(descriptor, start, os.SEEK_SET)
        while start < end and (count := _copy_range(original, copy, min(end - start, _CHUNK))):
            start += count


def _copy_range(original: int, copy: int, limit: int) -> int:
    """Copies at most so many bytes from where one file stands to where the other does; how many."""
    try:
        return os.copy_file_range(original, copy, limit)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return os.sendfile(copy, original, None, limit)


def _reflink(original: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True
