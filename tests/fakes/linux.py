"""Looks at this machine's processes, for tests about what is left of them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from fakes.waiting import PATIENCE, wait_until
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


def wait_for_descendant(pid: int, *argv: str) -> None:
    """Returns when a process below `pid` runs the command `argv`."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    wait_until(lambda: wanted in map(_command_line, descendants(pid)), f"{' '.join(argv)} below {pid}")


def _command_line(pid: int) -> bytes:
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def wait_for_lock_waiter(pid: int) -> None:
    """Returns when the process waits for a flock(2) that another one holds."""

    def waits() -> bool:
        # A line is `1: -> FLOCK  ADVISORY  READ  PID ...` for a process that waits.
        lines = map(str.split, Path("/proc/locks").read_text().splitlines())
        return any(words[1:3] == ["->", "FLOCK"] and words[5] == str(pid) for words in lines)

    wait_until(waits, f"process {pid} waits for a lock")


def gone(pids: set[int], *, seconds: float = PATIENCE) -> bool:
    """Whether none of the processes is there any more, within some seconds."""
    end = time.monotonic() + seconds
    while pids & processes().keys():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
