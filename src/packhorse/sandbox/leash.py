"""Ends a process group when its own stdin ends, so that the group ends with the process that started both.

Started by `process.ParentDeathGuard` for mmdebstrap, which removes its chroot when it is asked to end. For
programs that can simply be killed there is `launcher/leash`. Imports are few, as in `linux.userns_exec`.
"""

# Importing pathlib would take longer than everything done here.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

_SIGNALS = ((signal.SIGINT, 15), (signal.SIGTERM, 15), (signal.SIGKILL, 5))
"""Signals that end a group, each with the seconds that the group has to clean up. SIGINT is first because
fakeroot ends its daemon on no other.
"""


def main(words: list[str]) -> int:
    """Takes a descriptor of a group's leader and the group's number; returns when the leader has ended."""
    leader, group = map(int, words)
    readable, _, _ = select.select([0, leader], [], [])
    if 0 in readable:
        end_group(group)  # processes of it may outlive its leader
    return 0


def end_group(group: int) -> None:
    """Ends all processes of a group. Their parents reap them."""
    for number, patience in _SIGNALS:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        end = time.monotonic() + patience
        while _is_alive(group):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        else:
            return


def _is_alive(group: int) -> bool:
    """Returns whether a process of a group still runs; one that waits to be reaped does not count."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, _, of = file.read().rpartition(b")")[2].split()[:3]
            if int(of) == group and state not in (b"Z", b"X"):
                return True
    return False
