"""Which paths of this machine a step names; called by the runtimes before they mount them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packhorse.base.step import Bind, Overlay, Step


def sources(step: Step) -> Iterator[Path]:
    """Every path of this machine that the step names."""
    if step.root is not None:
        yield step.root.tree
        yield from (path for path in (step.root.upper, step.root.work) if path is not None)
    for mount in step.mounts:
        if isinstance(mount, Bind):
            yield mount.source
        else:
            yield from mount.lowers
            yield from (path for path in (mount.upper, mount.work) if path is not None)


def private_sources(step: Step) -> Iterator[Path]:
    """Sources that a step only reads, and that are to be the step's user's own, or are shut to others."""
    for mount in step.mounts:
        if isinstance(mount, Overlay):
            yield from mount.lowers
        elif not mount.writable:
            needed = 0o5 if mount.source.is_dir() else 0o4
            if mount.owned or mount.source.stat().st_mode & needed != needed:
                yield mount.source
