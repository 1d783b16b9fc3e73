"""Which paths of this machine a step names; called by the runtimes before they mount them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packhorse.base.step import Bind, Overlay, SandboxSpec


def sources(spec: SandboxSpec) -> Iterator[Path]:
    """Every path of this machine that the step names."""
    if spec.root is not None:
        yield spec.root.tree
        yield from (path for path in (spec.root.upper, spec.root.work) if path is not None)
    for mount in spec.mounts:
        if isinstance(mount, Bind):
            yield mount.source
        else:
            yield from mount.lowers
            yield from (path for path in (mount.upper, mount.work) if path is not None)


def private_sources(spec: SandboxSpec) -> Iterator[Path]:
    """Sources that a step only reads, and that are to be the step's user's own, or are shut to others."""
    for mount in spec.mounts:
        if isinstance(mount, Overlay):
            yield from mount.lowers
        elif not mount.writable:
            needed = 0o5 if mount.source.is_dir() else 0o4
            if mount.is_users_own or mount.source.stat().st_mode & needed != needed:
                yield mount.source
