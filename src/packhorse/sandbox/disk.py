"""Finds that a full disk is why a step's mounts cannot be made or written; called by `runner`.

overlayfs makes a directory in its work directory when it is mounted. Without room for that the mount fails,
or it succeeds and can only be read, and then a buildpack would be blamed for what the disk lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse.base import syscalls
from packhorse.base.diskspace import find_shortage
from packhorse.base.entries import closing
from packhorse.base.step import Overlay, SandboxSpec
from packhorse.errors import DiskFull, SandboxError
from packhorse.sandbox.layout import Layout

_RESOLVE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


@contextmanager
def explain_full_disk(scratch: Path) -> Iterator[None]:
    """Raises DiskFull in place of a SandboxError of the block, if there is no room in `scratch`."""
    try:
        yield
    except SandboxError as error:
        if why := find_shortage(scratch):
            raise DiskFull(f"a sandbox at {scratch}", why=why) from error
        raise


def check(root: int, spec: SandboxSpec, layout: Layout, scratch: Path) -> None:
    """Raises DiskFull, or SandboxError, when an overlay of a step can only be read and is to be written.

    `root` is a descriptor of the step's tree; `scratch` is on the file system that the step writes to.
    """
    uppers = {"/": spec.root.upper} if spec.root and spec.root.upper else {}
    for mount in spec.mounts:
        if isinstance(mount, Overlay) and mount.upper is not None:
            uppers[layout.place(mount.target)] = mount.upper
    for path, upper in uppers.items():
        if _is_read_only(root, path):
            if why := find_shortage(scratch):
                raise DiskFull(f"a sandbox at {scratch}", why=why)
            raise SandboxError(
                f"the overlay at {path} can only be read",
                why=f"the kernel could not make its work directory beside {upper}",
                fix="see `dmesg`",
                check="overlay",
            )


def _is_read_only(root: int, path: str) -> bool:
    try:
        with closing(syscalls.openat2(root, path, os.O_PATH, resolve=_RESOLVE)) as descriptor:
            return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
    except OSError:  # this user may have no right to get there, and whatever is written there will say so
        return False
