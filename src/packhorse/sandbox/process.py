"""Holds a sandbox's first process, makes the pipes of a command, and ends helper programs with packhorse.

All runtimes share this. It also matches a runtime's error message with a check of `packhorse doctor`.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from typing import IO, Self

from packhorse.base.installation import find_program
from packhorse.errors import SandboxError
from packhorse.linux.processes import python_command
from packhorse.sandbox.init import READY, Init

_CHECKS = (
    ("overlay", r"overlay"),
    ("seccomp", r"seccomp"),
    ("user-namespaces", r"new namespace|[ug]id[ _]map|setgroups|/ns/user|user namespace|^bwrap: loopback"),
)


def find_check(message: str, otherwise: str) -> str:
    """Returns the name of the doctor's check for a runtime's error message, `otherwise` if none matches."""
    for name, pattern in _CHECKS:
        if re.search(pattern, message, re.IGNORECASE | re.MULTILINE):
            return name
    return otherwise


_TIMEOUT = 10.0
"""Seconds in which a runtime ends by itself once its sandbox is given up; a slow disk delays it."""


class Process(ABC):
    """A runtime that was started. `pid` is the sandbox's first process; `init` sends requests to it."""

    def __init__(self) -> None:
        self._own = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self.pid = -1
        self.init = Init()

    @abstractmethod
    def read_error(self) -> str:
        """Waits until a runtime that failed has ended, and returns its error message."""

    def open_root(self, close: Callable[[int], None] = os.close) -> int:
        """Returns a descriptor of the sandbox's root directory, which stays readable after its processes end.

        Also opens the mount namespace, because the mounts below the root would otherwise go with the
        processes. `self.close` passes that second descriptor to the argument `close`.
        """
        mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._own.callback(close, mounts)
        return os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Kills the first process; returns when it and all others of its PID namespace have ended.

        The kernel reports the end of a first process only when its namespace is empty (pid_namespaces(7)).
        """
        if self.pid >= 0:
            _kill_and_wait(self._pidfd)

    def close(self) -> None:
        """Kills whatever still runs and closes all descriptors."""
        self.init.close()
        self.kill()
        if self._process is not None and self.pid >= 0:
            self._process.wait()
        self._own.close()
        if self._process is not None:
            self._wait_for_failure(self._process)

    def _wait_for_failure(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a runtime to end after its sandbox has; kills one that is stuck."""
        try:
            process.wait(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _hold(self, pid: int) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._own.callback(os.close, self._pidfd)
        self.pid = pid

    def _wait_until_ready(self) -> bool:
        """Waits until the first process has started; False if it failed to."""
        answer = self.init.receive()
        return answer is not None and answer["kind"] == READY


class Pipes:
    """The pipes of one command: `theirs` are its stdin, stdout and stderr; the rest are our ends.

    `output` reads its stdout and stderr. If `attached`, `output` reads stdout alone, `errors` reads stderr,
    and `input` writes to its stdin. `owner` (host ids) becomes the owner of the output pipe, so that the
    command can open /dev/stdout again.
    """

    def __init__(self, *, attached: bool = False, owner: tuple[int, int] | None = None) -> None:
        self._own = ExitStack()
        self._theirs = ExitStack()
        self.output, printed = self._pipe(read_by_us=True)
        self.input: FileIO | None = None
        self.errors: FileIO | None = None
        if attached:
            self.input, given = self._pipe(read_by_us=False)
            self.errors, complained = self._pipe(read_by_us=True)
        else:
            given, complained = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), printed
            self._theirs.callback(os.close, given)
        if owner is not None:
            os.fchown(printed, *owner)
        self.theirs = (given, printed, complained)
        self.is_empty = False  # whether `output` has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close_theirs()
        self._own.close()

    def close_theirs(self) -> None:
        """Closes our copies of the command's ends."""
        self._theirs.close()

    def _pipe(self, *, read_by_us: bool) -> tuple[FileIO, int]:
        read, write = os.pipe()
        mine, other = (read, write) if read_by_us else (write, read)
        self._theirs.callback(os.close, other)
        return self._own.enter_context(FileIO(mine, "r" if read_by_us else "w")), other


class ParentDeathGuard:
    """Ends a helper program with `close`, and when this process ends, however that happens.

    `launcher/leash` starts and guards one program. For a process group, `for_group` runs the module `leash`,
    which asks the group to end before it kills it. Only `builder.distro` guards groups.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        stderr: IO[bytes] | None = None,
        program: Sequence[str] = (),
    ) -> None:
        self._end, theirs = socket.socketpair()
        try:
            self._start([*(program or (str(find_program("leash")),)), *words], theirs, pass_fds, stderr)
        except OSError as error:
            self._end.close()
            raise SandboxError(
                "a program that a sandbox needs cannot be started",
                why=f"{error.filename or 'packhorse'}: {error.strerror}",
            ) from error

    def _start(
        self, words: Sequence[str], theirs: socket.socket, pass_fds: Sequence[int], stderr: IO[bytes] | None
    ) -> None:
        with theirs:
            self._process = subprocess.Popen(
                words,
                pass_fds=pass_fds,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                process_group=0,  # so that Ctrl-C does not reach it or the program that it guards
                env={},
            )

    @classmethod
    def for_group(cls, leader: int) -> ParentDeathGuard:
        """Guards a process group whose leader is a child of this process that nobody has waited for yet."""
        descriptor = os.pidfd_open(leader)
        try:
            python = python_command("packhorse.sandbox.leash")
            return cls([str(descriptor), str(leader)], pass_fds=(descriptor,), program=python)
        finally:
            os.close(descriptor)

    def terminate(self) -> None:
        """Tells the guard to end its process, and does not wait; `close` waits."""
        with suppress(OSError):  # it has ended already
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the guarded process and waits for it. A second call does nothing."""
        if self._end.fileno() < 0:
            return
        with self._end:
            self.terminate()
            self._process.wait()
            try:
                _, descriptors, _, _ = socket.recv_fds(self._end, 1, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                _kill_and_wait(descriptor)  # in case the guard itself was killed before it could
                os.close(descriptor)


def _kill_and_wait(process: int) -> None:
    """Kills the process of a pidfd; returns when it, and its PID namespace if it is the first, have ended."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
