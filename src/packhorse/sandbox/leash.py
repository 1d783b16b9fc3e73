"""The child that runs a program until its own stdin ends, so that it dies with whoever held the other end.

Called by `network` for pasta, which neither notices that the network has no processes any more, nor keeps a
parent-death signal when it changes its ids. Imports are few, as in `base.entrance`.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from packhorse.base import syscalls


def main(argv: list[str]) -> int:
    """Runs `argv` and ends it with SIGKILL at the end of stdin; ends itself with it, and with its status."""
    pid = os.fork()
    if pid == 0:
        syscalls.restore_signals()  # pasta wants SIGPIPE as it was
        try:
            os.execvp(argv[0], argv)
        except OSError as error:
            print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)
    os.closerange(3, 256)
    child = os.pidfd_open(pid)
    readable, _, _ = select.select([0, child], [], [])
    if child not in readable:
        signal.pidfd_send_signal(child, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF
