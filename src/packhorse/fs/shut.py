"""Opens entries whose mode forbids it even to their owner, such as a directory of mode 0000.

Buildpacks can make such entries. Root can read them. An ordinary user could only change their modes, but
other builds would see that, and an overlay would copy the entry up. So a child process opens them
(`fs.opener`). It starts at the first such entry and serves the whole command. Walkers call the functions
below `attribute_at`, which try the ordinary call first. So root, and a user without such entries, never start
the child.

Imports are few, because short-lived children import this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def open_at(directory: int, path: str, flags: int) -> int:
    """Opens `path` with `directory` as its root, or with "" `directory` itself, and returns a descriptor.

    It opens with O_PATH if `flags` has that, else for reading. Call it after a PermissionError; it raises one
    too if the file belongs to another user. Raises OSError, and HostError if no child can be started.
    """
    from packhorse.fs import opener

    descriptor = opener.ask(directory, opener.OPEN, flags, path)[1]
    assert descriptor >= 0
    return descriptor


def attribute_at(directory: int, path: str, name: str) -> bytes:
    """An extended attribute of `path`, which it resolves as `open_at` does. Raises the same errors."""
    from packhorse.fs import opener

    return opener.ask(directory, opener.ATTRIBUTE, os.O_PATH | os.O_NOFOLLOW, path, name)[0]


# `name` is a single name in the open directory `directory`, and no function follows a link. They ask the
# child only after the kernel has refused the ordinary call.


def lstat(directory: int, name: str) -> os.stat_result:
    """The lstat(2) of an entry."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except PermissionError:
        with _open_path(directory, name) as held:
            return os.fstat(held)


def open_entry(directory: int, name: str, flags: int) -> int:
    """Opens an entry, a regular file or directory, for reading."""
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:
        return open_at(directory, name, flags)


def read_link(directory: int, name: str) -> str:
    """The target of a link."""
    try:
        return os.readlink(name, dir_fd=directory)
    except PermissionError:
        with _open_path(directory, name) as held:
            return os.readlink("", dir_fd=held)


def link(directory: int, name: str, target: int) -> None:
    """Makes a hard link to an entry in the directory `target`, with the same name."""
    try:
        os.link(name, name, src_dir_fd=directory, dst_dir_fd=target, follow_symlinks=False)
    except PermissionError:
        # link(2) follows the name in /proc to the entry, and no further if the entry is a link itself.
        with _open_path(directory, name) as held:
            os.link(f"/proc/self/fd/{held}", name, dst_dir_fd=target, follow_symlinks=True)


def attribute(directory: int, name: str, attribute: str) -> bytes:
    """An extended attribute of an entry."""
    try:
        return os.getxattr(f"/proc/self/fd/{directory}/{name}", attribute, follow_symlinks=False)
    except PermissionError:
        return attribute_at(directory, name, attribute)


@contextmanager
def _open_path(directory: int, name: str) -> Iterator[int]:
    held = open_at(directory, name, os.O_PATH | os.O_NOFOLLOW)
    try:
        yield held
    finally:
        os.close(held)
