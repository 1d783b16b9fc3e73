"""Runs a command for a buildpack, shows its output at once, and returns it or raises an error.

Called by `sdk.context`. The caller chooses the environment. There are no retries and no time limits here.
"""

from __future__ import annotations

import errno
import os
import select
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from packhorse.base.log import Log, Output
from packhorse.errors import BuildpackFailed, HostError

_CHUNK = 1 << 16
_TAIL = 1 << 18
_POLL_MILLISECONDS = 100


class CommandFailed(BuildpackFailed):
    """A command ended with a non-zero status. `output` is the end of what it printed (at most 256 KiB)."""

    def __init__(
        self, argv: Sequence[str], *, status: int, output: str, why: str = "", fix: str = ""
    ) -> None:
        ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
        super().__init__(f"`{shlex.join(argv)}` failed ({ended})", why=why, fix=fix)
        self.argv = tuple(argv)
        self.status = status
        self.output = output


def run(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Log) -> str:
    """Runs `argv`, shows standard output and standard error together, and returns the end of both.

    Raises CommandFailed for a non-zero status, and HostError if there is no such command.
    """
    log.detail(f"$ {shlex.join(argv)}")
    with _start(argv, cwd=cwd, env=env, stderr=subprocess.STDOUT) as process:
        output = log.output()
        tail = _forward_output(process, output)
        output.close()
        status = process.wait()
    text = tail.decode("utf-8", "replace")
    if status != 0:
        raise CommandFailed(argv, status=status, output=text)
    return text


def capture(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> str:
    """Runs `argv` silently and returns its standard output.

    Raises CommandFailed with both outputs for a non-zero status, and HostError if there is no such command.
    """
    with _start(argv, cwd=cwd, env=env, stderr=subprocess.PIPE) as process:
        out, err = process.communicate()
    if process.returncode != 0:
        shown = (out + err)[-_TAIL:].decode("utf-8", "replace")
        raise CommandFailed(argv, status=process.returncode, output=shown, why=shown.strip())
    return out.decode("utf-8", "replace")


def _start(argv: Sequence[str], *, cwd: Path, env: Mapping[str, str], stderr: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
        )
    except OSError as error:
        raise HostError(
            f"cannot run `{argv[0]}`",
            why=error.strerror or str(error),
            fix=_fix_for(argv[0], cwd / argv[0], error),
        ) from error


def _fix_for(program: str, path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f'make it executable (chmod +x), or give its interpreter: ("sh", "{program}")'
    if error.errno == errno.ENOEXEC:
        return f'its first line names no interpreter: give one, as in ("sh", "{program}")'
    if "/" in program and path.exists():
        return "the build image must have the interpreter or loader that it names"
    if "/" in program:
        return f"check that {path} exists"
    return f"the build image must have `{program}` on PATH: use a builder that does"


def _forward_output(process: subprocess.Popen[bytes], output: Output) -> bytes:
    """Shows the output until the process has ended and the pipe is empty; returns the end of the output.

    It does not wait for the end of the pipe, because a daemon that the command started may keep it open.
    """
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    tail = b""
    while True:
        ended = process.poll() is not None
        if poll.poll(0 if ended else _POLL_MILLISECONDS):
            data = os.read(pipe, _CHUNK)
            if not data:
                return tail
            output.feed(data)
            tail = (tail + data)[-_TAIL:]
        elif ended:
            return tail
