"""Merges directories by hard links, with the marks of the overlay file system.

A directory can hide entries below it: a character device 0/0 means "removed", and a directory with the
extended attribute `user.overlay.opaque` means "replaced" (kernel: Documentation/filesystems/overlayfs,
"whiteouts and opaque directories"). So one function merges both an overlay's upper directory and an unpacked
layer. Imports are few, because the short-lived child of `store.userns_worker` imports this module.

Trees may be hostile: nothing here follows a link or resolves a path of more than one element.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from packhorse.fs import shut
from packhorse.fs import walk as entries

OPAQUE = "user.overlay.opaque"
_PRIVATE = "user.overlay."


def apply_tree(source: int, target: int) -> int:
    """Lays everything in the directory `source` over the directory `target`; answers how many entries that
    were.

    Files are shared between the two afterwards. Raises OSError, and TreeError when `source` is nested too
    deep.
    """
    return _apply(source, None, target)


def apply_entry(source: int, name: str, target: int) -> int:
    """Lays the entry `name` of the directory `source` over that of `target`, as `apply_tree` does."""
    return _apply(source, [name], target)


def strip_overlay_xattrs(parent: int, name: str) -> None:
    """Removes from the directory `name` in `parent`, once in an overlay's upper, what only the overlay
    understands.
    """
    with entries.Walk(parent, [name], edit=True) as walk:
        for directory, child, status, is_done in walk:
            mode = stat.S_IMODE(status.st_mode)
            is_closed = mode & stat.S_IRWXU != stat.S_IRWXU
            if is_done:
                if is_closed:
                    os.chmod(child, mode, dir_fd=directory)
            elif is_whiteout(status):
                os.unlink(child, dir_fd=directory)
            elif stat.S_ISREG(status.st_mode):
                _strip_xattrs(directory, child, status, _PRIVATE)
            elif stat.S_ISDIR(status.st_mode):
                _strip_xattrs(directory, child, status, _PRIVATE)
                if is_closed:
                    entries.let_owner_in(directory, child)  # nobody else sees it yet


@contextmanager
def open_directory(path: os.PathLike[str]) -> Iterator[int]:
    """A descriptor of the directory at a path of our own; OSError for anything else, a link among it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_subdirectory(parent: int, name: str) -> Iterator[int]:
    """A descriptor of the directory `name` in `parent`; OSError for anything else, a link among it.

    One that its mode shuts us out of is opened all the same; to look up a name in it takes `fs.shut`.
    """
    descriptor = shut.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy_metadata(directory: int, like: os.stat_result) -> None:
    """Gives a directory the owner, mode and times of another."""
    os.fchown(directory, like.st_uid, like.st_gid)
    os.fchmod(directory, stat.S_IMODE(like.st_mode))
    os.utime(directory, ns=(like.st_atime_ns, like.st_mtime_ns))


def is_opaque(parent: int, name: str) -> bool:
    """Whether the directory `name` hides the directories below it."""
    with suppress(OSError):
        return shut.attribute(parent, name, OPAQUE) == b"y"
    return False


def walk_statuses(parent: int, name: str) -> Iterator[os.stat_result]:
    """What lstat(2) says of the entry `name` and of all below it, but of what goes meanwhile."""
    with entries.Walk(parent, [name], missing_ok=True) as walk:
        for _, _, status, is_done in walk:
            if not is_done:
                yield status


def clear_opaque(parent: int, name: str) -> None:
    """Makes the directory `name` one that hides nothing."""
    _strip_xattrs(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), OPAQUE)


def option_length(path: bytes) -> int:
    """How many bytes a path takes of the 4096 that the options of a mount have, as bubblewrap writes it."""
    return len(b"/oldroot:") + len(path) + sum(map(path.count, b"\\:,"))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry stands for a removed one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _apply(source: int, chosen: Sequence[str] | None, target: int) -> int:
    count = 0
    with entries.Walk(source, chosen) as walk, entries.Chain(target) as below:
        for directory, name, status, is_done in walk:
            if is_done:
                copy_metadata(below.here, status)
                below.leave()
            elif _lay_entry(directory, name, status, below.here):
                count += 1
                if stat.S_ISDIR(status.st_mode):
                    below.enter(name)
    return count


def _lay_entry(source: int, name: str, status: os.stat_result, target: int) -> bool:
    """Lays an entry over the one below it, of a directory the directory alone; False for a whiteout."""
    below = _mode(target, name)
    is_merged = (
        below is not None
        and stat.S_ISDIR(below)
        and stat.S_ISDIR(status.st_mode)
        and not is_opaque(source, name)
    )
    if below is not None and not is_merged:
        if stat.S_ISDIR(below):
            entries.remove(target, name)
        else:
            os.unlink(name, dir_fd=target)
    if is_whiteout(status):
        return False
    if not stat.S_ISDIR(status.st_mode):
        shut.link(source, name, target)
    elif is_merged:
        entries.let_owner_in(target, name)  # an owner without privilege cannot fill a directory of mode 0555
    else:
        os.mkdir(name, 0o700, dir_fd=target)
    return True


def _mode(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _strip_xattrs(directory: int, name: str, status: os.stat_result, prefix: str) -> None:
    path = _descriptor_path(directory, name)
    marks = [mark for mark in os.listxattr(path, follow_symlinks=False) if mark.startswith(prefix)]
    if not marks:
        return
    # Attributes of a file its owner may not write cannot be removed by the owner either.
    mode = stat.S_IMODE(status.st_mode)
    if not mode & stat.S_IWUSR:
        os.chmod(name, mode | stat.S_IWUSR, dir_fd=directory)
    for mark in marks:
        os.removexattr(path, mark, follow_symlinks=False)
    if not mode & stat.S_IWUSR:
        os.chmod(name, mode, dir_fd=directory)


def _descriptor_path(directory: int, name: str) -> str:
    """A path for the calls that take no directory descriptor: they resolve its last element only."""
    return f"/proc/self/fd/{directory}/{name}"
