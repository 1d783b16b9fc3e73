"""Starts Python modules in child processes, which may outlive a command, and reads facts about processes.

A process that outlives its command does work that no user should wait for. It has no terminal, and inherits
only the descriptors that it is given. So the parent's pipes and locks end with the parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def python_command(module: str, *, packages: bool = False) -> list[str]:
    """The command line that calls `main(sys.argv[1:])` of a module of packhorse in a new interpreter.

    Without `packages` it can import only the standard library and packhorse, and starts faster.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        f"from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-X", "utf8", "-I", *([] if packages else ["-S"]), "-c", code]


def read_proc(name: str, pid: int | str = "self") -> str:
    """The text of `/proc/PID/name` (proc(5)).

    Names of processes and mounts need not be UTF-8; other bytes are decoded as in file names. Raises OSError
    if the process is gone, or another user's that this one may not read.
    """
    return os.fsdecode(Path(f"/proc/{pid}/{name}").read_bytes())


def process_start_id(pid: str = "self") -> str:
    """Pid and start time of a process, unique until the machine restarts; empty if the process is gone."""
    try:
        fields = read_proc("stat", pid)
    except OSError:
        return ""
    return f"{fields.split()[0]}-{fields.rpartition(')')[2].split()[19]}"


PIPE_GONE = 128 + signal.SIGPIPE
"""The exit status, as a shell reports it, of a process that SIGPIPE has killed."""


def relay(descriptor: int, output: Callable[[bytes], None]) -> None:
    """Reads a pipe until its other end is closed, and passes each chunk to `output`."""
    while chunk := os.read(descriptor, 65536):
        output(chunk)


_END_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


def start(
    words: Sequence[str], *, pass_fds: Sequence[int] = (), stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Starts a process that may outlive this one, with the descriptors `pass_fds`. Raises OSError.

    The signals that end a process are blocked in it until it calls `accept_signals`. At first it is still in
    its parent's process group, where Ctrl-C would end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _END_SIGNALS)  # a pending signal's handler may raise here
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
    """Lets signals end this process, which `start` has started; drops those that came in the meantime."""
    while signal.sigtimedwait(_END_SIGNALS, 0):
        pass
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _END_SIGNALS)


def detach(process: subprocess.Popen[bytes], *, timeout: float = 0.0) -> None:
    """Waits at most `timeout` seconds for a process to end, then leaves it to run on its own."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.returncode = 0  # else Popen would warn that the process is still running
