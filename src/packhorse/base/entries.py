"""Entries below a directory descriptor, moved and removed without following a link; under every arrow.

Called by `base.rooted` and `store`, with descriptors that are known to be inside a tree. What may be edited,
and as whom, is theirs; resolving paths is `base.rooted`'s.
"""

# Pathlib knows no descriptors.
# ruff: noqa: PTH101, PTH208

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from packhorse.base import syscalls

DEEPEST = 400
"""Levels that are followed down in one tree: each holds a descriptor, of which a process has 1024."""


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Closes `descriptor` at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_directory(parent: int, name: str) -> int:
    """A descriptor of a subdirectory, made accessible first where its owner has shut itself out."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        with closing(
            os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        ) as held:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        return os.open(name, flags, dir_fd=parent)


def move(old_parent: int, old: str, new_parent: int, new: str, depth: int = 0) -> None:
    """Moves an entry to a free name; a directory that cannot be renamed (EXDEV), entry by entry."""
    try:
        syscalls.rename_new(old_parent, old, new_parent, new)
        return
    except OSError as error:
        if error.errno != errno.EXDEV or depth > DEEPEST:
            raise
    entry = os.stat(old, dir_fd=old_parent, follow_symlinks=False)
    if not stat.S_ISDIR(entry.st_mode):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    os.mkdir(new, 0o700, dir_fd=new_parent)
    with (
        closing(open_directory(old_parent, old)) as source,
        closing(open_directory(new_parent, new)) as target,
    ):
        for name in os.listdir(source):
            move(source, name, target, name, depth + 1)
        os.fchmod(target, stat.S_IMODE(entry.st_mode))
        os.utime(target, ns=(entry.st_atime_ns, entry.st_mtime_ns))
    os.rmdir(old, dir_fd=old_parent)


def remove(parent: int, name: str, depth: int = 0) -> None:
    """Removes an entry and all below it, also from directories whose permissions forbid it."""
    entry = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if not stat.S_ISDIR(entry.st_mode):
        os.unlink(name, dir_fd=parent)
        return
    if depth > DEEPEST:
        raise OSError(errno.ENAMETOOLONG, f"directories are nested more than {DEEPEST} deep")
    with closing(open_directory(parent, name)) as directory:
        names = os.listdir(directory)
        if names and entry.st_mode & 0o300 != 0o300:
            # Directories without write permission are usual in caches (Go's modules are 0555).
            os.fchmod(directory, 0o700)
        for child in names:
            remove(directory, child, depth + 1)
    os.rmdir(name, dir_fd=parent)
