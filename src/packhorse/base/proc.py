"""What is the same for every child process: how its output is handed on and how its end is counted.

Called by `sandbox`, `lifecycle.local` and `sdk`, wherever a process is waited for. What it runs is theirs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path


def python(module: str) -> list[str]:
    """The command line that runs `main` of one of our modules in a fresh interpreter, with `sys.argv[1:]`.

    Nothing but the standard library and packhorse can be imported there, so that it starts within 7 ms.
    """
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
        f"from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-X", "utf8", "-I", "-S", "-c", code]


def status_of(returncode: int) -> int:
    """The exit status of a child as shells count it, from Popen's: 128 + n when signal n ended it."""
    return 128 - returncode if returncode < 0 else returncode


def relay(descriptor: int, output: Callable[[bytes], None]) -> None:
    """Hands what comes from a pipe to `output`, as it comes and in order, until its other end is closed."""
    while chunk := os.read(descriptor, 65536):
        output(chunk)
