"""Runs child processes: passes on their output, reports how they end, starts some that outlive a command.

A process that outlives its command does work that no user should wait for. It has no terminal, and of its
parent's files only those it is given. So the pipes and locks of the parent end with the parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def python_command(module: str, *, packages: bool = False) -> list[str]:
    """The command line that runs `main` of one of our modules in a fresh interpreter, with `sys.argv[1:]`.

    Without `packages` nothing but the standard library and packhorse can be imported there, so that it starts
    within 7 ms.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        f"from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-X", "utf8", "-I", *([] if packages else ["-S"]), "-c", code]


def read_proc(name: str, pid: int | str = "self") -> str:
    """What the kernel tells of a process in `/proc/PID/name` (proc(5)).

    Processes, mounts and groups may be called anything: what is no UTF-8 comes as it does in file names.
    Raises OSError when the process is gone, or is not to be looked at by us.
    """
    return os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes())


def process_start_id(pid: str = "self") -> str:
    """A process as no other is called until the next start of the machine; empty when it is gone."""
    try:
        fields = read_proc("stat", pid)
    except OSError:
        return ""
    return f"{fields.split()[0]}-{fields.rpartition(')')[2].split()[19]}"


PIPE_GONE = 128 + signal.SIGPIPE
"""How a process ends whose output nobody reads any more, if it does not care."""


def relay(descriptor: int, output: Callable[[bytes], None]) -> None:
    """Hands what comes from a pipe to `output`, as it comes and in order, until its other end is closed."""
    while chunk := os.read(descriptor, 65536):
        output(chunk)


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
