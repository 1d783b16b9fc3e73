"""The child that ends a process when its own stdin ends, so that it dies with whoever held the other end.

Started by `process.Leash`, for what does not die with its parent: pasta, which keeps no parent-death signal
when it changes its ids; a step with another id than bubblewrap's, to whom the kernel does not let
bubblewrap's signal through; and mmdebstrap, which takes its chroot away if it is asked to end. Imports are
few, as in `base.entrance`.
"""

# Importing pathlib would take longer than everything done here.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import _socket  # what the module socket is made of, without the milliseconds that its enums take
import os
import select
import signal
import sys
import time
from contextlib import suppress

from packhorse.base import syscalls

_SIGNALS = ((signal.SIGINT, 15), (signal.SIGTERM, 15), (signal.SIGKILL, 5))
"""What ends a group, with the seconds given to clean up after each. SIGINT first: fakeroot ends its daemon
for no other.
"""


def main(words: list[str]) -> int:
    """Runs the words after `run`, or takes a process: a descriptor of it comes after `process` or `group`.

    Ends it at the end of stdin: a process with SIGKILL; with `group`, behind which the group's number stands
    too, all of the group as it can bear it. Who has a process run gets a descriptor of it through stdin, a
    socket, to end it should this process be killed. Returns when the process has ended, with its status if it
    was run here.
    """
    verb, *argv = words
    pid = _started(argv) if verb == "run" else 0
    process = os.pidfd_open(pid) if verb == "run" else int(argv[0])
    if verb == "run":
        _hand_over(process)
    readable, _, _ = select.select([0, process], [], [])
    if 0 in readable and verb == "group":
        end_group(int(argv[1]))  # which may be there still when its leader is gone
    elif process not in readable:
        signal.pidfd_send_signal(process, signal.SIGKILL)
    if verb != "run":
        return 0
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _hand_over(process: int) -> None:
    channel = _socket.socket(fileno=0)
    told = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, process.to_bytes(4, sys.byteorder))]
    with suppress(OSError):  # nobody is there any more
        channel.sendmsg([b"\0"], told)
    channel.detach()


def end_group(group: int) -> None:
    """Ends all processes of a group, whoever reaps them."""
    for number, patience in _SIGNALS:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        end = time.monotonic() + patience
        while _lives(group):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        else:
            return


def _lives(group: int) -> bool:
    """Whether a process of a group has not ended yet; that it was reaped is not waited for."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            state, _, of = file.read().rpartition(b")")[2].split()[:3]
            if int(of) == group and state not in (b"Z", b"X"):
                return True
    return False


def _started(argv: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        syscalls.restore_signals()  # pasta wants SIGPIPE as it was
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    os.closerange(3, 256)
    return pid
