"""③ Layer directories copied: for buildpacks, and machines, that cannot have them as an overlay.

Never by hard links, for a buildpack writes into what it is given. Where the file system shares blocks between
files (btrfs, xfs, bcachefs) nothing is read; elsewhere the kernel copies. Called by copies; the trees may be
hostile: no link is followed.
"""

from __future__ import annotations

import os
import stat

from packhorse.base import cloning, entries, shut
from packhorse.store import merge

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
                merge.copy_metadata(made.here, status)
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
                cloning.copy_content(original, made)
            merge.copy_metadata(made, status)
        finally:
            os.close(made)
    finally:
        os.close(original)
