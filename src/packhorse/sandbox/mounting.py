"""A step's file tree as mounts at one directory, made inside its namespaces; called by `monitor`.

All that the mounts are made of is taken hold of first, by name, as the step's user. It is named by descriptor
from then on: an overlay's options are so short that they fit into one page for any number of layers, and need
no escapes. Targets are resolved below the tree that is being made, and through no link, so that nothing is
mounted or made anywhere else. Which mounts there are is `oci_config`'s.
"""

# pathlib and dataclasses take longer to import than all of this to run.

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import TypedDict

from packhorse.base import syscalls
from packhorse.base.entrance import UsernsExecError

_PAGE = 4096
"""What mount(2) takes of options, its NUL included."""

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_SYMLINKS


class MountSpec(TypedDict):
    """A bind mount of `source`, or an overlay of `lowers`, bottom first, with `upper` and `work` or two "".

    `source` is "" for an overlay. `target` is absolute, with all links of the image resolved.
    """

    target: str
    source: str
    lowers: list[str]
    upper: str
    work: str
    writable: bool


class PreparedMounts:
    """Mounts whose sources are held, to be made in their order; the first one is the root."""

    def __init__(self, mounts: Sequence[MountSpec]) -> None:
        self._mounts = [(mount, _open_sources(mount)) for mount in mounts]

    def make(self, directory: str) -> int:
        """Makes the tree at the empty `directory`; returns a descriptor of its root."""
        (first, held), *others = self._mounts
        target = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _mount(first, held, target)
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for mount, held in others:
            target = _open_target(
                root, mount["target"], as_directory=bool(not mount["source"]) or _is_directory(held)
            )
            _mount(mount, held, target)
        return root


def _open_sources(mount: MountSpec) -> list[int]:
    """Descriptors of what the mount is made of: a detached mount, or lowers and, if any, upper and work."""
    if mount["source"]:
        descriptor = syscalls.clone_mount(mount["source"], recursive=True)
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        syscalls.restrict_mount(
            descriptor, attributes if mount["writable"] else attributes | syscalls.MOUNT_ATTR_RDONLY
        )
        return [descriptor]
    names = [*mount["lowers"], *(name for name in (mount["upper"], mount["work"]) if name)]
    return [os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for name in names]


def _mount(mount: MountSpec, held: Sequence[int], target: int) -> None:
    if mount["source"]:
        syscalls.attach_mount_at(held[0], target)
    else:
        _mount_overlay(mount, held, target)
    for descriptor in (*held, target):
        os.close(descriptor)


def _mount_overlay(mount: MountSpec, held: Sequence[int], target: int) -> None:
    count = len(mount["lowers"])
    layers = ":".join(str(descriptor) for descriptor in reversed(held[:count]))
    options = f"userxattr,lowerdir={layers}"
    if mount["upper"]:
        options += f",upperdir={held[count]},workdir={held[count + 1]}"
    if len(options) >= _PAGE:
        raise UsernsExecError(f"{count} directories are too many to be seen as one at {mount['target']}")
    os.chdir("/proc/self/fd")
    try:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        syscalls.mount("overlay", f"/proc/self/fd/{target}", "overlay", flags, options)
    except OSError as error:
        raise UsernsExecError(
            f"an overlay cannot be mounted at {mount['target']}: {error.strerror}"
        ) from error
    finally:
        os.chdir("/")


def _open_target(root: int, path: str, *, as_directory: bool) -> int:
    """A descriptor of the mount point `path`, which is made if it is missing."""
    try:
        return _open(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise UsernsExecError(f"nothing can be mounted at {path}: {error.strerror}") from error
    try:
        above, _, name = path.rpartition("/")
        parent = _open_target(root, above or "/", as_directory=True)
        try:
            _make(parent, name, as_directory=as_directory)
        finally:
            os.close(parent)
        return _open(root, path)
    except OSError as error:
        raise UsernsExecError(f"the mount point {path} cannot be made: {error.strerror}") from error


def _open(root: int, path: str) -> int:
    return syscalls.openat2(root, path, os.O_PATH, resolve=_RESOLVE)


def _make(parent: int, name: str, *, as_directory: bool) -> None:
    if as_directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=parent))


def _is_directory(held: Sequence[int]) -> bool:
    return stat.S_ISDIR(os.fstat(held[0]).st_mode)
