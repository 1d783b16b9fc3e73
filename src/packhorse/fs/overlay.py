"""Merges directories by hard links, and reads and removes the marks of the overlay file system.

The upper directory of an overlay marks what it hides below it: a character device 0/0 means "removed", and a
directory with the extended attribute `user.overlay.opaque` means "replaced" (kernel:
Documentation/filesystems/overlayfs, "whiteouts and opaque directories"). `store` merges upper directories and
kept layers with it. Imports are few, because the short-lived child `store.userns_worker` imports this module.

Trees may be hostile, so this code follows no link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from packhorse.fs import shut
from packhorse.fs.walk import Chain, Walk, closing, let_owner_in, remove, stat_existing

OPAQUE = "user.overlay.opaque"
_PRIVATE = "user.overlay."


def apply_tree(source: int, target: int) -> int:
    """Merges everything in the directory `source` into the directory `target`, both descriptors.

    Returns the number of entries in `source`, without whiteouts. Afterwards the two trees share files by hard
    links. Raises OSError, and TreeError if `source` is nested too deep.
    """
    return _apply(source, None, target)


def apply_entry(source: int, name: str, target: int) -> int:
    """Merges the entry `name` of the directory `source` into that of `target`, as `apply_tree` does."""
    return _apply(source, [name], target)


def strip_overlay_xattrs(parent: int, name: str) -> None:
    """Removes the whiteouts and the overlay's attributes below the directory `name` in `parent`.

    It keeps the modes of files and directories.
    """
    with Walk(parent, [name], edit=True) as walk:
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
                    # The mode may change for a moment: no other process uses this tree yet.
                    let_owner_in(directory, child)


@contextmanager
def open_directory(path: os.PathLike[str]) -> Iterator[int]:
    """Opens the directory at `path`, which no buildpack chose. Raises OSError if it is no directory."""
    with closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as descriptor:
        yield descriptor


@contextmanager
def open_subdirectory(parent: int, name: str) -> Iterator[int]:
    """Opens the directory `name` in `parent`, whatever its mode. Raises OSError if it is no directory.

    If the mode denies access, use `fs.shut` to look up names in it.
    """
    with closing(shut.open_entry(parent, name, os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
        yield descriptor


def copy_metadata(directory: int, like: os.stat_result) -> None:
    """Gives the open file or directory `directory` the owner, mode and times in `like`."""
    os.fchown(directory, like.st_uid, like.st_gid)
    os.fchmod(directory, stat.S_IMODE(like.st_mode))
    os.utime(directory, ns=(like.st_atime_ns, like.st_mtime_ns))


def is_opaque(parent: int, name: str) -> bool:
    """Whether the directory `name` hides the directories below it."""
    with suppress(OSError):
        return shut.attribute(parent, name, OPAQUE) == b"y"
    return False


def walk_statuses(parent: int, name: str) -> Iterator[os.stat_result]:
    """The lstat(2) of the entry `name` and of everything below it; skips what is removed meanwhile."""
    with Walk(parent, [name], missing_ok=True) as walk:
        for _, _, status, is_done in walk:
            if not is_done:
                yield status


def clear_opaque(parent: int, name: str) -> None:
    """Removes the opaque mark of the directory `name`, so that it hides nothing."""
    _strip_xattrs(parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False), OPAQUE)


def option_length(path: bytes) -> int:
    """The bytes that a path takes in mount options, of which a mount has 4096.

    bubblewrap puts `/oldroot` in front, and escapes some characters.
    """
    return len(b"/oldroot:") + len(path) + sum(map(path.count, b"\\:,"))


def is_whiteout(status: os.stat_result) -> bool:
    """Whether an entry is a whiteout, the mark for a removed entry."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _apply(source: int, chosen: Sequence[str] | None, target: int) -> int:
    count = 0
    with Walk(source, chosen) as walk, Chain(target) as below:
        for directory, name, status, is_done in walk:
            if is_done:
                copy_metadata(below.here, status)
                below.leave()
            elif _merge_entry(directory, name, status, below.here):
                count += 1
                if stat.S_ISDIR(status.st_mode):
                    below.enter(name)
    return count


def _merge_entry(source: int, name: str, status: os.stat_result, target: int) -> bool:
    """Merges one entry, a directory without its content, into `target`; False for a whiteout."""
    below = stat_existing(target, name)
    is_merged = (
        below is not None
        and stat.S_ISDIR(below.st_mode)
        and stat.S_ISDIR(status.st_mode)
        and not is_opaque(source, name)
    )
    if below is not None and not is_merged:
        if stat.S_ISDIR(below.st_mode):
            remove(target, name)
        else:
            os.unlink(name, dir_fd=target)
    if is_whiteout(status):
        return False
    if not stat.S_ISDIR(status.st_mode):
        shut.link(source, name, target)
    elif is_merged:
        let_owner_in(target, name)  # an ordinary user cannot add entries to a directory of mode 0555
    else:
        os.mkdir(name, 0o700, dir_fd=target)
    return True


def _strip_xattrs(directory: int, name: str, status: os.stat_result, prefix: str) -> None:
    path = _descriptor_path(directory, name)
    marks = [mark for mark in os.listxattr(path, follow_symlinks=False) if mark.startswith(prefix)]
    if not marks:
        return
    # To remove an attribute, the owner needs permission to write the file.
    mode = stat.S_IMODE(status.st_mode)
    if not mode & stat.S_IWUSR:
        os.chmod(name, mode | stat.S_IWUSR, dir_fd=directory)
    for mark in marks:
        os.removexattr(path, mark, follow_symlinks=False)
    if not mode & stat.S_IWUSR:
        os.chmod(name, mode, dir_fd=directory)


def _descriptor_path(directory: int, name: str) -> str:
    """A path for calls that take no directory descriptor. The kernel looks up `name` in that directory."""
    return f"/proc/self/fd/{directory}/{name}"
