"""Limits how much of this machine builds may use, while they run and for kept layers.

`build.plan` calls `build_limits`. Ordinary builds stay far below these limits, and the machine stays usable
if a build runs out of control; docs/reference/limits.md explains the numbers. `sandbox.limits` enforces them.

`build.deliver` calls `trim` after a build that kept something new. cli's `cache` calls `remove` and `prune`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.sandbox import Limits
from packhorse.errors import NotFoundError
from packhorse.lifecycle.ports import Observer
from packhorse.oci.compress import LAYER_LIMIT
from packhorse.oci.reference import Reference
from packhorse.sandbox import cgroup
from packhorse.store.gc import FreedSpace
from packhorse.store.store import Store

NAMES = ("memory", "processes", "file-size", "disk", "inodes", "shared-memory")
"""The limits that a user can set: the names of `Limits`' fields, with hyphens."""

SIZES = frozenset({"memory", "file-size", "disk", "shared-memory"})
"""The limits that are numbers of bytes."""

_PROCESSES, _PROCESSES_OF_A_CPU = 4096, 256
_DISK, _INODES = 1 << 30, 10_000

_SMALL_FILE = 1 << 30
"""Files up to this size are allowed even if the disk has less space, because programs report a full disk more
clearly than a file that is too large, and because space may become free meanwhile."""


def build_limits(place: Path, asked: Mapping[str, int]) -> Limits:
    """The limits of a build's steps, which write to the file system of `place`.

    `asked` has the user's numbers by name; 0 means no limit.
    """
    disk = os.statvfs(place)
    free, whole = (blocks * disk.f_frsize for blocks in (disk.f_bavail, disk.f_blocks))
    chosen = Limits(
        memory=_memory() * 7 // 8,
        processes=_processes(),
        file_size=min(max(free, _SMALL_FILE), LAYER_LIMIT),
        disk=min(_DISK, whole // 20, free // 2),
        inodes=min(_INODES, disk.f_files // 20, disk.f_favail // 2),
        expendable=True,
    )
    fields: dict[str, Any] = {name.replace("-", "_"): number for name, number in asked.items()}
    return replace(chosen, **fields)


def _memory() -> int:
    """The memory for this process in bytes: the machine's, or less in a container with a limit."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = cgroup.memory_allowed()
    return min(pages, allowed) if allowed else pages


def _processes() -> int:
    """Enough processes for tools that start several on each CPU, and at most half of the kernel's limit."""
    most = (_read_number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max"))
    wanted = max(_PROCESSES, _PROCESSES_OF_A_CPU * (os.cpu_count() or 1))
    return min(wanted, *(number // 2 for number in most if number))


def _read_number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0


_LEAST = 10 << 30


@dataclass(frozen=True, slots=True)
class PruneResult:
    """The images whose kept layers were removed, and the space that this freed."""

    apps: tuple[str, ...]
    freed: FreedSpace


def default_limit(store: Store) -> int:
    """The default limit of kept layers, in bytes: a tenth of the disk, at least 10 GiB."""
    disk = os.statvfs(store.path)
    return max(disk.f_blocks * disk.f_frsize // 10, _LEAST)


def trim(store: Store, limit: int | None, *, built: Reference, observer: Observer) -> None:
    """Removes the least recently used layers if more than `limit` bytes are kept; 0 means no limit."""
    if limit == 0:
        return
    for app in store.trim(limit or default_limit(store), stays=str(built)):
        observer.say(
            f"removing the layers kept for {app}: all kept layers exceed the limit (PACKHORSE_KEEP_STORAGE)"
        )


def remove(store: Store, names: Iterable[str]) -> PruneResult:
    """Removes the layers that are kept for these images.

    Raises NotFoundError with the names of all images without kept layers, InputError for a bad name.
    """
    apps = {str(Reference.parse(name)): name for name in names}
    known = store.last_uses()
    missing = [name for app, name in apps.items() if app not in known]
    if missing:
        raise NotFoundError(
            f"nothing is kept for {', '.join(missing)}",
            why="nothing was built under that name, or it has been removed",
            fix="see `packhorse cache ls`",
        )
    _, freed = store.remove_caches(apps)
    return PruneResult(tuple(sorted(apps)), freed)


def prune(store: Store, *, limit: int | None, older: float | None, every: bool) -> PruneResult:
    """Removes kept layers: all (`every`), or those beyond `limit` bytes, or not used for `older` seconds.

    With both numbers, only layers that meet both conditions are removed. Without any, the default limit
    applies. A limit of 0 keeps nothing.
    """
    if every:
        apps = set(store.last_uses())
    elif limit is None and older is not None:
        apps = _find_unused(store, older)
    else:
        apps = set(store.caches_beyond(default_limit(store) if limit is None else limit))
        if older is not None:
            apps &= _find_unused(store, older)
    _, freed = store.remove_caches(apps)
    return PruneResult(tuple(sorted(apps)), freed)


def _find_unused(store: Store, seconds: float) -> set[str]:
    return {app for app, used in store.last_uses().items() if used < time.time() - seconds}
