"""Looks at this machine's processes, for tests about what is left of them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from packhorse.linux.processes import read_proc

_PATIENCE = 60.0
"""Seconds to wait for something at most, on a machine that has more to do."""


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


def wait_for_descendant(pid: int, *argv: str) -> None:
    """Returns when a process below `pid` runs the command `argv`."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    end = time.monotonic() + _PATIENCE
    while wanted not in map(_command_line, descendants(pid)):
        assert time.monotonic() < end, f"{' '.join(argv)} does not run"
        time.sleep(0.01)


def _command_line(pid: int) -> bytes:
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_for_lock_waiter(pid: int) -> None:
    """Returns when the process waits for a flock(2) that another one holds."""
    end = time.monotonic() + _PATIENCE
    # A line is `1: -> FLOCK  ADVISORY  READ  PID ...` for a process that waits.
    while not any(
        words[1:3] == ["->", "FLOCK"] and words[5] == str(pid)
        for words in map(str.split, Path("/proc/locks").read_text().splitlines())
    ):
        assert time.monotonic() < end, f"process {pid} waits for no lock"
        time.sleep(0.01)


def gone(pids: set[int], *, seconds: float = _PATIENCE) -> bool:
    """Whether none of the processes is there any more, within some seconds."""
    end = time.monotonic() + seconds
    while pids & processes().keys():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
