"""Copies files and layer directories. The file system shares the blocks if it can, else the kernel copies.

btrfs, xfs and bcachefs can share blocks; there nothing is read. A copy is never a hard link, because a write
to one file would change the other. Buildpacks get copied layers where they cannot have an overlay. The trees
may be hostile: no link is followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from packhorse.fs import overlay, shut
from packhorse.fs import walk as entries

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


Signature = dict[str, tuple[int, ...]]
"""What stat(2) says of everything in a directory, by path: it differs after any write but one of our own."""


def copy(source: int, name: str, target: int) -> int:
    """Copies the entry `name` of the directory `source` into `target`: modes, times and owners too.

    Answers how many entries that were. Sockets and devices, which no layer has, are left out. Raises OSError,
    and TreeError for what is nested too deep.
    """
    count = 0
    with entries.Walk(source, [name]) as walk, entries.Chain(target) as made:
        for directory, child, status, is_done in walk:
            if is_done:
                overlay.copy_metadata(made.here, status)
                made.leave()
            elif _copy(directory, child, status, made.here):
                count += 1
                if stat.S_ISDIR(status.st_mode):
                    made.enter(child)
    return count


def signature(directory: int, name: str) -> Signature:
    """The signature of the directory `name` of `directory`; OSError or TreeError if it cannot be."""
    found: Signature = {}
    above = [""]
    with entries.Walk(directory, [name]) as walk:
        for _, child, status, is_done in walk:
            if is_done:
                above.pop()
                continue
            path = above[-1] + child
            found[path] = (
                *(status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid),
                *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
            )
            if stat.S_ISDIR(status.st_mode):
                above.append(f"{path}/")
    return found


def _copy(source: int, name: str, status: os.stat_result, target: int) -> bool:
    """Copies an entry, of a directory the directory alone; False for what no layer has."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        return True
    if kind == stat.S_IFREG:
        _copy_file(source, name, target, status)
        return True
    if kind == stat.S_IFLNK:
        os.symlink(shut.read_link(source, name), name, dir_fd=target)
    elif kind == stat.S_IFIFO:
        os.mkfifo(name, 0o600, dir_fd=target)
    else:
        return False
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if kind == stat.S_IFIFO:
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
    return True


def _copy_file(source: int, name: str, target: int, status: os.stat_result) -> None:
    original = shut.open_entry(source, name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        made = os.open(name, flags, 0o600, dir_fd=target)
        try:
            if status.st_size:
                copy_content(original, made)
            overlay.copy_metadata(made, status)
        finally:
            os.close(made)
    finally:
        os.close(original)
