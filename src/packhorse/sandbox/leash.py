"""The child that ends a process group when its own stdin ends, so that it dies with who held the other end.

Started by `process.ParentDeathGuard`, for mmdebstrap, which takes its chroot away if it is asked to end. What
has only to be killed is on a leash of `launcher/leash`. Imports are few, as in `linux.userns_exec`.
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
"""What ends a group, with the seconds given to clean up after each. SIGINT first: fakeroot ends its daemon
for no other.
"""


def main(words: list[str]) -> int:
    """Takes a descriptor of a group's leader and the group's number; returns when the leader has ended."""
    leader, group = map(int, words)
    readable, _, _ = select.select([0, leader], [], [])
    if 0 in readable:
        end_group(group)  # which may be there still when its leader is gone
    return 0


def end_group(group: int) -> None:
    """Ends all processes of a group, whoever reaps them."""
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
    """Whether a process of a group has not ended yet; that it was reaped is not waited for."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, _, of = file.read().rpartition(b")")[2].split()[:3]
            if int(of) == group and state not in (b"Z", b"X"):
                return True
    return False
