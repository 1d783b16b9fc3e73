"""A step as an OCI runtime's config.json and the mounts of its tree; called by `oci`. Nothing is made here.

The runtime is started inside the step's user namespace, over a tree that `monitor` has mounted; what is left
to it are the other namespaces, /proc, /dev and ids. System call filter, environment and command are given to
the first process (`order`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packhorse.base.step import Bind, Mount, Network, Step
from packhorse.errors import SandboxError
from packhorse.sandbox.confinement import CAPABILITIES, READ_ONLY
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.mounting import Mounting

CHANNEL, INIT = 3, 4
"""The first process's descriptors: its socket, and itself."""

_MOUNTS = (
    ("/proc", "proc", ("nosuid", "noexec", "nodev")),
    # Only /dev/shm is to be written, and that is a file system of its own.
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k", "ro")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777")),
)
_NAMESPACES = ("mount", "pid", "ipc", "uts", "cgroup")


def config(
    step: Step, layout: Layout, *, root: str, user: tuple[int, int], maps: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The config.json of a step whose tree is at `root`; the first process has the ids `user` inside.

    `maps` are those of the user namespace that it enters to have others.
    """
    size = step.limits.shared_memory_size
    shared = [f"size={size}"] if size else []
    namespaces = [*_NAMESPACES, *(["network"] if step.network is not Network.HOST else [])]
    # Root inside (an image extension's RUN) has what docker gives it; anybody else has nothing.
    capabilities = list(CAPABILITIES) if step.uid == 0 else []
    if user != (step.uid, step.gid):
        # A first process that is to change its ids can map that of root with this alone (user_namespaces(7)).
        capabilities = ["CAP_SETFCAP"]
    return {
        "ociVersion": "1.0.2",
        "hostname": step.hostname,
        "root": {"path": root},
        "mounts": [
            {
                "destination": target,
                "type": kind,
                "source": kind,
                "options": [*options, *(shared if target == "/dev/shm" else [])],
            }
            for target, kind, options in _MOUNTS
        ],
        "process": {
            "user": {"uid": user[0], "gid": user[1]},
            "args": [f"/proc/self/fd/{INIT}", str(CHANNEL), *maps],
            "cwd": "/",
            "env": [],
            "noNewPrivileges": True,
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(layout.masked),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def mounts(step: Step, layout: Layout) -> list[Mounting]:
    """The mounts of the step's tree, the root first."""
    if step.root is None:
        raise SandboxError("a step in a sandbox needs a root file system")
    lowers = [str(layout.skeleton), str(step.root.tree)]
    root = _overlay("/", lowers, str(step.root.upper or ""), str(step.root.work or ""))
    return [root, *(_mounting(mount, layout) for mount in step.mounts)]


def _mounting(mount: Mount, layout: Layout) -> Mounting:
    target = layout.place(mount.target)
    if isinstance(mount, Bind):
        return _bind(target, str(mount.source), writable=mount.writable)
    upper, work = str(mount.upper or ""), str(mount.work or "")
    writable = bool(upper and work)
    if not mount.lowers and not writable:
        raise SandboxError(f"nothing is to be mounted at {mount.target}")
    if len(mount.lowers) + writable < 2:
        # An overlay has at least two layers; of one alone it is the same as a bind.
        return _bind(target, upper if writable else str(mount.lowers[0]), writable=writable)
    return _overlay(target, [str(path) for path in mount.lowers], upper, work)


def _bind(target: str, source: str, *, writable: bool) -> Mounting:
    return Mounting(target=target, source=source, lowers=[], upper="", work="", writable=writable)


def _overlay(target: str, lowers: Sequence[str], upper: str, work: str) -> Mounting:
    writable = bool(upper and work)
    return Mounting(
        target=target,
        source="",
        lowers=list(lowers),
        upper=upper if writable else "",
        work=work if writable else "",
        writable=writable,
    )
