"""Looks at this machine's processes, for tests about what is left of them."""

from __future__ import annotations

import time
from pathlib import Path

from packhorse.linux.processes import read_proc


def processes() -> dict[int, int]:
    """Every process of this machine that can be looked at, with its parent."""
    found = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = read_proc("stat", directory.name).rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                found[int(directory.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def gone(pids: set[int], *, seconds: float = 60) -> bool:
    """Whether none of the processes is there any more, within some seconds."""
    end = time.monotonic() + seconds
    while pids & processes().keys():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
