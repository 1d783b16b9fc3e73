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
from contextlib import contextmanager, suppress
from time import monotonic

DEEPEST = 400
"""Levels that are followed down in one tree: each holds a descriptor, of which a process has 1024."""
_HELD = 200
"""Levels whose descriptors are held while a tree is removed: its caller holds others."""
_BLOCKS = (1 << 20) // 512  # of a megabyte


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
        let_owner_in(parent, name)
        return os.open(name, flags, dir_fd=parent)


def move(old_parent: int, old: str, new_parent: int, new: str, depth: int = 0) -> None:
    """Moves an entry to a free name; a directory that cannot be renamed (EXDEV), entry by entry."""
    from packhorse.base import syscalls  # the short-lived children that remove trees do without

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


class Unfinished(Exception):
    """There is more to remove than there is patience for."""


class Patience:
    """How much is removed while somebody waits: `entries`, however long they take, and for `seconds`.

    A megabyte counts as an entry too: to give back its blocks takes as long.
    """

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._until = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """The seconds pass in this block."""
        began = monotonic()
        self._until = began + self._seconds
        try:
            yield
        finally:
            self._seconds -= monotonic() - began

    def spend(self, status: os.stat_result) -> None:
        """Takes note of an entry that is to be removed; raises Unfinished when that is one too many."""
        self._entries -= 1 + (status.st_blocks // _BLOCKS if status.st_nlink == 1 else 0)
        if self._entries < 0 and monotonic() > self._until:
            raise Unfinished


def remove(parent: int, name: str, *, patience: Patience | None = None) -> int:
    """Removes the entry `name` of the directory `parent` and all below it, at any depth; a missing one is no
    error.

    Answers how many bytes of disk that freed: those of files that had no other name left. Directories without
    the permission to empty them are given it (Go's module cache, an overlay's work directory). Raises
    Unfinished when `patience` ends before all is gone.
    """
    pending = [name]
    freed = 0
    while pending:
        freed += _remove(parent, pending.pop(), parent, pending, patience, depth=0)
    return freed


def _remove(
    directory: int, name: str, top: int, pending: list[str], patience: Patience | None, *, depth: int
) -> int:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if patience is not None:
        patience.spend(status)
        if depth > _HELD:
            raise Unfinished  # what is moved to the top below would have to be found again
    freed = status.st_blocks * 512
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=directory)
        return freed if status.st_nlink == 1 else 0
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        let_owner_in(directory, name)
    if depth > _HELD:
        # Too deep for one chain of descriptors: it continues from the top, under a name nothing else has.
        moved = f".{status.st_dev:x}-{status.st_ino:x}"
        os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
        pending.append(moved)
        return 0
    with closing(open_directory(directory, name)) as inner:
        for child in os.listdir(inner):
            freed += _remove(inner, child, top, pending, patience, depth=depth + 1)
    os.rmdir(name, dir_fd=directory)
    return freed


def let_owner_in(parent: int, name: str) -> None:
    """Gives the owner of the directory `name` all permissions, if we may; OSError for anything else, a link
    among it.

    What sweeps up after a killed command may meet its step, which is just dying and puts links in the way.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(name, flags, dir_fd=parent)) as held, suppress(PermissionError):
        os.chmod(f"/proc/self/fd/{held}", 0o700)
