"""A step as an OCI runtime's config.json and the mounts of its tree; called by `oci`. Nothing is made here.

The runtime is started inside the step's user namespace, over a tree that `monitor` has mounted; what is left
to it are the other namespaces, /proc, /dev and ids. System call filter, environment and command are given to
the first process (`order`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from packhorse.base.step import Bind, Mount, Network, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox.confinement import CAPABILITIES, READ_ONLY
from packhorse.sandbox.layout import Layout
from packhorse.sandbox.mounting import MountSpec

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


def make_config(
    spec: SandboxSpec, layout: Layout, *, root: str, user: tuple[int, int], maps: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The config.json of a step whose tree is at `root`; the first process has the ids `user` inside.

    `maps` are those of the user namespace that it enters to have others.
    """
    size = spec.limits.shared_memory_size
    shared = [f"size={size}"] if size else []
    namespaces = [*_NAMESPACES, *(["network"] if spec.network is not Network.HOST else [])]
    # Root inside (an image extension's RUN) has what docker gives it; anybody else has nothing.
    capabilities = list(CAPABILITIES) if spec.uid == 0 else []
    if user != (spec.uid, spec.gid):
        # A first process that is to change its ids can map that of root with this alone (user_namespaces(7)).
        capabilities = ["CAP_SETFCAP"]
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
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


def make_mounts(spec: SandboxSpec, layout: Layout) -> list[MountSpec]:
    """The mounts of the step's tree, the root first."""
    if spec.root is None:
        raise SandboxError("a step in a sandbox needs a root file system")
    lowers = [str(layout.skeleton), str(spec.root.tree)]
    root = _make_overlay("/", lowers, str(spec.root.upper or ""), str(spec.root.work or ""))
    return [root, *(_make_mount(mount, layout) for mount in spec.mounts)]


def _make_mount(mount: Mount, layout: Layout) -> MountSpec:
    target = layout.place(mount.target)
    if isinstance(mount, Bind):
        return _make_bind(target, str(mount.source), writable=mount.writable)
    upper, work = str(mount.upper or ""), str(mount.work or "")
    writable = bool(upper and work)
    if not mount.lowers and not writable:
        raise SandboxError(f"nothing is to be mounted at {mount.target}")
    if len(mount.lowers) + writable < 2:
        # An overlay has at least two layers; of one alone it is the same as a bind.
        return _make_bind(target, upper if writable else str(mount.lowers[0]), writable=writable)
    return _make_overlay(target, [str(path) for path in mount.lowers], upper, work)


def _make_bind(target: str, source: str, *, writable: bool) -> MountSpec:
    return MountSpec(target=target, source=source, lowers=[], upper="", work="", writable=writable)


def _make_overlay(target: str, lowers: Sequence[str], upper: str, work: str) -> MountSpec:
    writable = bool(upper and work)
    return MountSpec(
        target=target,
        source="",
        lowers=list(lowers),
        upper=upper if writable else "",
        work=work if writable else "",
        writable=writable,
    )
