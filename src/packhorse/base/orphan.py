"""A process that outlives the one which starts it: for work that no user should wait for; under every arrow.

It has no terminal, and of its parent's files only those it is given: a pipe that the parent writes to ends
with the parent, and so do its locks. Called by `store` and `sandbox`, which say what is done there.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence

_END_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def start(
    words: Sequence[str], *, pass_fds: Sequence[int] = (), stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Starts it, with these descriptors; raises OSError.

    It is deaf to what asks a process to end until it says `accept_signals`: for a moment it is of its
    parent's process group, and what is for that would end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)  # a handler that raises may run in here
        return subprocess.Popen(
            words,
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
            env={},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def accept_signals() -> None:
    """What it does first, if it is to heed signals: it forgets those that were for its parent's group."""
    while signal.sigtimedwait(_END_SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS)


def detach(process: subprocess.Popen[bytes], *, timeout: float = 0.0) -> None:
    """Waits so many seconds for its end, and then lets it be: whoever takes orphans takes note of its end."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.returncode = 0  # or python would say that it still runs
