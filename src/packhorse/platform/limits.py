"""How much of this machine a build may use unless its user says otherwise; called by `build.plan`.

The numbers are such that no honest build meets them and that the machine stays usable when a runaway does;
docs/limits.md has them with their reasons. What holds a step to them is `sandbox.limits`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packhorse.base.dataclass import replace
from packhorse.base.step import Limits
from packhorse.image.compress import LAYER_LIMIT
from packhorse.sandbox import cgroup

NAMES = ("memory", "processes", "file-size", "disk", "inodes", "shared-memory")
"""What a user can set, by the names of `Limits`' fields with hyphens."""

SIZES = frozenset({"memory", "file-size", "disk", "shared-memory"})
"""Those that are numbers of bytes."""

_PROCESSES, _PROCESSES_OF_A_CPU = 4096, 256
_DISK, _INODES = 1 << 30, 10_000

_SMALL_FILE = 1 << 30
"""Files of this size are allowed however full the disk is: programs say more clearly that a disk is full than
that a file is too large, and others may make room in the meantime."""


def build_limits(place: Path, asked: Mapping[str, int]) -> Limits:
    """The limits of a build's steps, which write to the file system of `place`; `asked` has other numbers by
    name, 0 for no limit.
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
    """What there is for this process: the machine's, or less in a container that has a limit."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    allowed = cgroup.memory_allowed()
    return min(pages, allowed) if allowed else pages


def _processes() -> int:
    """Enough for every tool that starts some on each CPU, and at most half of what the kernel has."""
    most = (_read_number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max"))
    wanted = max(_PROCESSES, _PROCESSES_OF_A_CPU * (os.cpu_count() or 1))
    return min(wanted, *(number // 2 for number in most if number))


def _read_number(path: str) -> int:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return 0
