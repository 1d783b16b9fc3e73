"""Where mounts go in a root file system that cannot be written; called by `layout` before every step.

No runtime makes mount points on a read-only root. So a directory with nothing but mount points lies below
the root in its overlay: what the root has is seen, and what it lacks is there. What is mounted is
the runtime's.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

from packhorse.base.rooted import RootedTree
from packhorse.base.tree import NodeKind
from packhorse.errors import SandboxError, TreeError

FIXED = ("/proc", "/dev")
"""Mount points that every step has, made by the runtime."""

_SHARED_MEMORY = "/dev/shm"
_MOST_LINKS = 40


def resolve_target(root: RootedTree, target: str) -> str:
    """Where `target` is in the tree `root` with all links resolved; what is missing is taken as written.

    A mount on a link (`/etc/resolv.conf` often is one) would go to where the link leads outside. Nothing is
    mounted below the kernel's own directories: while bubblewrap makes mount points, `/proc/1/root` is the
    machine's root (*tried*), so that an image could have files and directories made there. SandboxError.
    """
    found = _resolve(root, target)
    if target in FIXED:
        if found != target:
            raise SandboxError(f"the image cannot be run: its {target} is a link", why=f"it leads to {found}")
    elif found.startswith(tuple(f"{fixed}/" for fixed in FIXED)) and found != _SHARED_MEMORY:
        raise SandboxError(
            f"nothing can be mounted at {target}", why=f"it is {found} in the image, which is the kernel's"
        )
    return found


def _resolve(root: RootedTree, target: str) -> str:
    done, rest, links = "/", target.split("/"), 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        here = posixpath.normpath(posixpath.join(done, name))
        try:
            node = root.stat(here)
            link = root.readlink(here) if node is not None and node.kind is NodeKind.LINK else None
        except TreeError:
            link = None  # not to be looked at by the invoking user; the runtime will say so if it matters
        if link is None:
            done = here
            continue
        links += 1
        if links > _MOST_LINKS:
            raise SandboxError(f"nothing can be mounted at {target}", why="links there lead in a circle")
        rest = link.split("/") + rest
        done = "/" if link.startswith("/") else done
    return done


def make_mount_points(
    directory: Path, *, directories: Iterable[str], files: Iterable[str], owner: tuple[int, int]
) -> None:
    """Makes an empty entry in `directory` for every mount point; `owner` has ids of this machine.

    All are 0755 or 0644, whatever the umask, since the sandbox may have to read them as somebody else.
    """
    wanted = {path.strip("/"): True for path in directories} | {path.strip("/"): False for path in files}
    wanted[""] = True
    for path in sorted(wanted):
        parent = directory
        for name in Path(path).parent.parts:
            parent = parent / name
            _ensure(parent, owner, as_directory=True)
        _ensure(directory / path, owner, as_directory=wanted[path])


def _ensure(path: Path, owner: tuple[int, int], *, as_directory: bool) -> None:
    if path.exists():
        return
    if as_directory:
        path.mkdir()
    else:
        path.touch()
    path.chmod(0o755 if as_directory else 0o644)
    if os.geteuid() == 0:
        os.chown(path, *owner)
