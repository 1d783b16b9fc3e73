"""What is the same for every process: how its output is handed on, how its end is counted, what it is called.

Called by `sandbox` and `sdk`, wherever a process is waited for. What it runs is theirs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
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


def shell_status(returncode: int) -> int:
    """The exit status of a child as shells count it, from Popen's: 128 + n when signal n ended it."""
    return 128 - returncode if returncode < 0 else returncode


PIPE_GONE = 128 + signal.SIGPIPE
"""How a process ends whose output nobody reads any more, if it does not care."""


def relay(descriptor: int, output: Callable[[bytes], None]) -> None:
    """Hands what comes from a pipe to `output`, as it comes and in order, until its other end is closed."""
    while chunk := os.read(descriptor, 65536):
        output(chunk)
