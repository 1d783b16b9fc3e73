"""Runs a sandbox's first process and the pipes of a command, and names the doctor's check for a failure.

The same for every runtime. A runtime that fails is matched by its own message with a line of `packhorse
doctor`.
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

_WORDS = (
    ("overlay", r"overlay"),
    ("seccomp", r"seccomp"),
    ("user-namespaces", r"new namespace|[ug]id[ _]map|setgroups|/ns/user|user namespace|^bwrap: loopback"),
)


def find_check(words: str, otherwise: str) -> str:
    """The name of the line; `otherwise` where none is plain."""
    for name, pattern in _WORDS:
        if re.search(pattern, words, re.IGNORECASE | re.MULTILINE):
            return name
    return otherwise


_TIMEOUT = 10.0
"""Seconds within which a runtime that is not wanted any more ends by itself: a disk may be slow."""


class Process(ABC):
    """A started runtime; the sandbox's first process is `init`, with the number `pid`, and has its mounts."""

    def __init__(self) -> None:
        self._own = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self.pid = -1
        self.init = Init()

    @abstractmethod
    def read_error(self) -> str:
        """What the runtime says of its failure, on which it ends."""

    def open_root(self, close: Callable[[int], None] = os.close) -> int:
        """A descriptor of the sandbox's root directory; it stays readable when the processes are gone.

        The mount namespace is held as well, without which the mounts below the root would go with the
        processes: by a descriptor that is closed by `close`.
        """
        mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._own.callback(close, mounts)
        return os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def kill(self) -> None:
        """Ends the first process; returns when that and all others of its namespace are gone.

        A process's end is told when its namespace is empty (pid_namespaces(7)).
        """
        if self.pid >= 0:
            _kill_and_wait(self._pidfd)

    def close(self) -> None:
        """Ends whatever still runs and closes everything."""
        self.init.close()
        self.kill()
        if self._process is not None and self.pid >= 0:
            self._process.wait()
        self._own.close()
        if self._process is not None:
            self._wait_for_failure(self._process)

    def _wait_for_failure(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a runtime whose sandbox is not wanted, and so will end; kills one that is stuck."""
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
        """Waits for the first process; whether it is there."""
        answer = self.init.receive()
        return answer is not None and answer["kind"] == READY


class Pipes:
    """What a command has as its stdin, stdout and stderr, `theirs`, and our ends of them.

    `output` is where its stdout and stderr come from; where it is `attached`, stdout alone, beside `errors`,
    and `input` is where its stdin goes to. `owner` is the user, by the ids of this machine, who can open
    /dev/stdout anew.
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
        """Closes the ends that the command has."""
        self._theirs.close()

    def _pipe(self, *, read_by_us: bool) -> tuple[FileIO, int]:
        read, write = os.pipe()
        mine, other = (read, write) if read_by_us else (write, read)
        self._theirs.callback(os.close, other)
        return self._own.enter_context(FileIO(mine, "r" if read_by_us else "w")), other


class ParentDeathGuard:
    """A running `launcher/leash`, or for groups `leash`; `close` ends what is on it.

    So does the end of this process. Only `builder.distro` has groups, which are asked to end first.
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
                "what a sandbox needs cannot be started",
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
                process_group=0,  # Ctrl-C is not for it, nor for what is on it
                env={},
            )

    @classmethod
    def for_group(cls, leader: int) -> ParentDeathGuard:
        """With a process group on it, whose leader is this process's child and was not waited for yet."""
        descriptor = os.pidfd_open(leader)
        try:
            python = python_command("packhorse.sandbox.leash")
            return cls([str(descriptor), str(leader)], pass_fds=(descriptor,), program=python)
        finally:
            os.close(descriptor)

    def terminate(self) -> None:
        """Has the process on the leash ended, without waiting for it; `close` does."""
        with suppress(OSError):  # it is over already
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the process on the leash and waits for it; a second time does nothing."""
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
                _kill_and_wait(descriptor)  # which the leash has done, unless it was killed itself
                os.close(descriptor)


def _kill_and_wait(process: int) -> None:
    """Kills a process; returns when it has ended, and with a first process all of its namespace."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
