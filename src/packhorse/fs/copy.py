"""Copies files and layer directories. The file system shares the blocks if it can, else the kernel copies.

btrfs, xfs and bcachefs can share blocks, so that no data is read. A copy is never a hard link, because a
write to one file would change the other. `store.build_layers` copies layers for buildpacks that cannot work
on an overlay. The trees may be hostile, so this code follows no link.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from packhorse.fs import overlay, shut
from packhorse.fs.walk import Chain, Walk, closing

_FICLONE = 0x40049409
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM, errno.EBADF}
_CHUNK = 1 << 30  # bytes


def copy_content(original: int, copy: int) -> None:
    """Copies the content of the file `original` to the new, empty file `copy`, both descriptors.

    Holes stay holes. Raises OSError.
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
                return  # the rest of the file is a hole
            raise
        end = os.lseek(original, start, os.SEEK_HOLE)
        for descriptor in (original, copy):
            os.lseek(descriptor, start, os.SEEK_SET)
        while start < end and (count := _copy_range(original, copy, min(end - start, _CHUNK))):
            start += count


def _copy_range(original: int, copy: int, limit: int) -> int:
    """Copies at most `limit` bytes between the current positions of two files; returns how many."""
    try:
        return os.copy_file_range(original, copy, limit)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return os.sendfile(copy, original, None, limit)


def _reflink(original: int, copy: int) -> bool:
    """Lets `copy` share the blocks of `original`; False if the file system cannot."""
    try:
        fcntl.ioctl(copy, _FICLONE, original)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
        return False
    return True


Signature = dict[str, tuple[int, ...]]
"""The lstat(2) numbers of a directory and everything in it, by path. Any write to the tree changes them."""


def copy_entry(source: int, name: str, target: int) -> int:
    """Copies the entry `name` of the directory `source` to `target`, with modes, times and owners.

    Returns the number of entries copied. It skips sockets and devices, which no layer has. Raises OSError,
    and TreeError for a tree that is nested too deep.
    """
    count = 0
    with Walk(source, [name]) as walk, Chain(target) as below:
        for directory, child, status, is_done in walk:
            if is_done:
                overlay.copy_metadata(below.here, status)
                below.leave()
            elif _copy(directory, child, status, below.here):
                count += 1
                if stat.S_ISDIR(status.st_mode):
                    below.enter(child)
    return count


def signature(directory: int, name: str) -> Signature:
    """The signature of the directory `name` of `directory`. Raises OSError, TreeError."""
    return dict(_signature_entries(directory, name))


def fingerprint(directory: int, name: str) -> tuple[str, int]:
    """A digest of the signature, which takes no memory, and the latest change time in it, in nanoseconds.

    The digest is a sum, because directories need not be listed in the same order again. Raises OSError,
    TreeError.
    """
    total = latest = 0
    for path, numbers in _signature_entries(directory, name):
        entry = f"{path}\0{numbers}".encode(errors="surrogateescape")
        total += int.from_bytes(hashlib.sha256(entry).digest())
        latest = max(latest, numbers[-1])
    return f"{total % (1 << 256):064x}", latest


def _signature_entries(directory: int, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    above = [""]
    with Walk(directory, [name]) as walk:
        for _, child, status, is_done in walk:
            if is_done:
                above.pop()
                continue
            path = above[-1] + child
            yield (
                path,
                (
                    *(status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid),
                    *(status.st_size, status.st_mtime_ns, status.st_ctime_ns),
                ),
            )
            if stat.S_ISDIR(status.st_mode):
                above.append(f"{path}/")


def wait_for_clock_tick(directory: Path, latest: int) -> None:
    """Waits until a write would give a file a later change time than `latest`, in nanoseconds.

    File systems record the time of the kernel's last tick, which may be some milliseconds ago. It makes and
    removes a file in `directory`, which must be on the file system in question. Raises OSError.
    """
    path = directory / "clock"
    path.touch()
    while path.stat().st_ctime_ns <= latest:
        time.sleep(0.001)
        os.utime(path)
    path.unlink()


def _copy(source: int, name: str, status: os.stat_result, target: int) -> bool:
    """Copies one entry, a directory without its content; False for a kind that no layer has."""
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
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        closing(shut.open_entry(source, name, os.O_RDONLY | os.O_NONBLOCK)) as original,
        closing(os.open(name, flags, 0o600, dir_fd=target)) as new,
    ):
        if status.st_size:
            copy_content(original, new)
        overlay.copy_metadata(new, status)
