"""③ Directories laid over each other by hard links, in the overlay file system's own terms.

A source may hide what lies below it: a character device 0/0 stands for "removed", a directory with the
extended attribute `user.overlay.opaque` for "replaced" (kernel: Documentation/filesystems/overlayfs,
"whiteouts and opaque directories"). So an overlay's upper directory and an unpacked layer are merged by the
same function. Called by inside (roots) and kept (changed layers); imports little of ours, since the
short-lived child pays for it.

Trees may be hostile: nothing here follows a link, and no path of more than one element is resolved.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from packhorse.base import entries, shut
from packhorse.errors import TreeError

OPAQUE = "user.overlay.opaque"
_PRIVATE = "user.overlay."
_DEPTH = 200  # two descriptors a level, and 1024 of them are usual


def lay(source: int, target: int) -> int:
    """Lays everything in the directory `source` over the directory `target`; answers how many entries that
    were.

    Files are shared between the two afterwards. Raises OSError, and TreeError when `source` is nested too
    deep.
    """
    return _lay_all(source, target, depth=0)


def lay_one(source: int, name: str, target: int) -> int:
    """Lays the entry `name` of the directory `source` over that of `target`, as `lay` does."""
    return _lay(source, name, target, depth=0)


def bare(parent: int, name: str) -> None:
    """Removes from the directory `name` in `parent`, once in an overlay's upper, what only the overlay
    understands.
    """
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    _bare(parent, name, status, depth=0)


@contextmanager
def directory(path: os.PathLike[str]) -> Iterator[int]:
    """A descriptor of the directory at a path of our own; OSError for anything else, a link among it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened(parent: int, name: str) -> Iterator[int]:
    """A descriptor of the directory `name` in `parent`; OSError for anything else, a link among it.

    One that its mode shuts us out of is opened all the same; to look up a name in it takes `base.shut`.
    """
    descriptor = shut.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def adorn(directory: int, like: os.stat_result) -> None:
    """Gives a directory the owner, mode and times of another."""
    os.fchown(directory, like.st_uid, like.st_gid)
    os.fchmod(directory, stat.S_IMODE(like.st_mode))
    os.utime(directory, ns=(like.st_atime_ns, like.st_mtime_ns))


def names(directory: int) -> list[str]:
    """The entries of a directory, in the order the disk has them."""
    with os.scandir(directory) as found:
        return [entry.name for entry in found]


def is_opaque(parent: int, name: str) -> bool:
    """Whether the directory `name` hides the directories below it."""
    with suppress(OSError):
        return shut.attribute(parent, name, OPAQUE) == b"y"
    return False


def statuses(parent: int, name: str) -> Iterator[os.stat_result]:
    """What lstat(2) says of the entry `name` and of all below it, but of what goes meanwhile."""
    with suppress(FileNotFoundError):
        status = shut.status(parent, name)
        yield status
        if stat.S_ISDIR(status.st_mode):
            with opened(parent, name) as directory:
                for child in names(directory):
                    yield from statuses(directory, child)


def uncover(parent: int, name: str) -> None:
    """Makes the directory `name` one that hides nothing."""
    _strip(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), OPAQUE)


def option_length(path: bytes) -> int:
    """How many bytes a path takes of the 4096 that the options of a mount have, as bubblewrap writes it."""
    return len(b"/oldroot:") + len(path) + sum(map(path.count, b"\\:,"))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry stands for a removed one."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _lay_all(source: int, target: int, *, depth: int) -> int:
    if depth > _DEPTH:
        raise TreeError(f"a directory is nested more than {_DEPTH} deep", why="it cannot be merged")
    return sum(_lay(source, name, target, depth=depth) for name in names(source))


def _lay(source: int, name: str, target: int, *, depth: int) -> int:
    status = shut.status(source, name)
    below = _mode(target, name)
    merged = (
        below is not None
        and stat.S_ISDIR(below)
        and stat.S_ISDIR(status.st_mode)
        and not is_opaque(source, name)
    )
    if below is not None and not merged:
        entries.remove(target, name)
    if is_whiteout(status):
        return 0
    if not stat.S_ISDIR(status.st_mode):
        shut.link(source, name, target)
        return 1
    if not merged:
        os.mkdir(name, 0o700, dir_fd=target)
    else:
        entries.let_owner_in(target, name)  # an owner without privilege cannot fill a directory of mode 0555
    with opened(source, name) as inner, opened(target, name) as outer:
        count = _lay_all(inner, outer, depth=depth + 1)
        adorn(outer, status)
    return count + 1


def _mode(directory: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _bare(parent: int, name: str, status: os.stat_result, *, depth: int) -> None:
    if depth > _DEPTH:
        raise TreeError(f"a directory is nested more than {_DEPTH} deep", why="it cannot be kept")
    _strip(parent, name, status, _PRIVATE)
    mode = stat.S_IMODE(status.st_mode)
    closed = mode & stat.S_IRWXU != stat.S_IRWXU
    if closed:
        entries.let_owner_in(parent, name)  # nobody else sees it yet
    with opened(parent, name) as directory:
        for child in names(directory):
            below = os.stat(child, dir_fd=directory, follow_symlinks=False)
            if is_whiteout(below):
                os.unlink(child, dir_fd=directory)
            elif stat.S_ISDIR(below.st_mode):
                _bare(directory, child, below, depth=depth + 1)
            elif stat.S_ISREG(below.st_mode):
                _strip(directory, child, below, _PRIVATE)
        if closed:
            os.fchmod(directory, mode)


def _strip(directory: int, name: str, status: os.stat_result, prefix: str) -> None:
    path = _through(directory, name)
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


def _through(directory: int, name: str) -> str:
    """A path for the calls that take no directory descriptor: they resolve its last element only."""
    return f"/proc/self/fd/{directory}/{name}"
