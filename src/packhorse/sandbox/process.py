"""A step's first process, held, let go and ended, whatever the runtime; called by `room` and `terminal`."""

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
from typing import IO

from packhorse.base import native, proc
from packhorse.base.step import Step
from packhorse.errors import SandboxError

_PATIENCE = 10.0
"""Seconds within which a runtime that is not wanted any more ends by itself: a disk may be slow."""


class Process(ABC):
    """A started runtime; its step's first process, `pid`, has its mounts and waits.

    `output` is where the step's stdout and stderr come from; where it is `attached`, stdout alone, beside
    `errors`, and `input` is where its stdin goes to. `ended` is readable when the step has ended.
    """

    def __init__(self, *, attached: bool) -> None:
        self._own = ExitStack()
        self._attached = attached
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self.pid = -1
        self.output: FileIO
        self.input: FileIO | None = None
        self.errors: FileIO | None = None
        self.ended: int

    @abstractmethod
    def assign(self, step: Step) -> None:
        """Says what a process runs that is held for a `deferred` step: argv, env and cwd of `step`."""

    @abstractmethod
    def release(self, program: bytes) -> None:
        """Lets the step begin, under the system call filter `program`."""

    @abstractmethod
    def wait(self, name: str, tail: str) -> int:
        """The exit status of the step's command `name`, when it has ended; `tail` is the end of its output.

        Raises CommandNotFound and NotExecutable when the kernel refused the command, SandboxError when it
        could not be started for another reason.
        """

    def words(self) -> str:
        """What the runtime says of its failure, on which it ends."""
        said: list[bytes] = []
        proc.relay((self.errors or self.output).fileno(), said.append)
        return b"".join(said).decode(errors="replace").strip()

    def open_root(self, close: Callable[[int], None] = os.close) -> int:
        """A descriptor of the step's root directory; it stays readable when the processes are gone.

        The mount namespace is held as well, without which the mounts below the root would go with the
        processes: by a descriptor that is closed by `close`.
        """
        mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._own.callback(close, mounts)
        return os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def relay(self, output: Callable[[bytes], None]) -> None:
        """Hands on what the step prints until all its processes are gone; they go with the step's command."""
        waiting = select.poll()
        waiting.register(self.output, select.POLLIN)
        waiting.register(self.ended, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self.ended in ready:
                # Whatever the command has left behind could hold the pipe open for ever.
                waiting.unregister(self.ended)
                self.kill()
            if self.output.fileno() in ready:
                chunk = os.read(self.output.fileno(), 65536)
                if not chunk:
                    return
                output(chunk)

    def payload(self) -> int | None:
        """The pid of the step's command, or None when it has not begun or is gone."""
        found: dict[int, int] = {}
        try:
            children = proc.told(f"task/{self.pid}/children", self.pid).split()
        except OSError:
            return None
        for child in children:
            with suppress(OSError):  # it is gone meanwhile
                (numbers,) = re.findall(r"^NSpid:.*\t(\d+)$", proc.told("status", child), re.MULTILINE)
                found[int(numbers)] = int(child)
        # The first process waits for orphans. All came later than the command, and if the numbers begin anew,
        # they do so at 300.
        return found[min(found)] if found else None

    def kill(self) -> None:
        """Ends the step's first process; returns when that and all others of its namespace are gone.

        A process's end is told when its namespace is empty (pid_namespaces(7)). The runtime's own end, which
        is what `ended` tells, can come before: what the step has left behind is still being killed then, and
        goes on writing where a phase already reads (*tried*).
        """
        if self.pid >= 0:
            _end(self._pidfd)

    def close(self) -> None:
        """Ends whatever still runs and closes everything."""
        self.kill()
        if self._process is not None and self.pid >= 0:
            self._process.wait()
        self._own.close()
        if self._process is not None:
            self._wait_for_failure(self._process)

    def _wait_for_failure(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a runtime that nobody will let go, and so will end; kills one that is stuck."""
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _hold(self, pid: int) -> None:
        self._pidfd = self._pidfd_of(pid)
        self.pid = pid

    def _pidfd_of(self, pid: int) -> int:
        descriptor = os.pidfd_open(pid)
        self._own.callback(os.close, descriptor)
        return descriptor

    def _stdio(self, theirs: ExitStack) -> tuple[int, int, int]:
        """What the step's command gets as stdin, stdout and stderr."""
        self.output, printed = self._pipe(theirs, read_by_us=True)
        if not self._attached:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            theirs.callback(os.close, nothing)
            return nothing, printed, printed
        self.input, given = self._pipe(theirs, read_by_us=False)
        self.errors, complained = self._pipe(theirs, read_by_us=True)
        return given, printed, complained

    def _pipe(self, theirs: ExitStack, *, read_by_us: bool) -> tuple[FileIO, int]:
        """A pipe: our end, closed with this, and the end for the runtime, closed with `theirs`."""
        read, write = os.pipe()
        mine, other = (read, write) if read_by_us else (write, read)
        theirs.callback(os.close, other)
        return self._own.enter_context(FileIO(mine, "r" if read_by_us else "w")), other

    def _sockets(self, theirs: ExitStack, kind: socket.SocketKind) -> tuple[socket.socket, int]:
        """A pair of sockets: our end, and theirs as a descriptor."""
        ours, other = socket.socketpair(socket.AF_UNIX, kind)
        self._own.enter_context(ours)
        theirs.enter_context(other)
        return ours, other.fileno()


class Leash:
    """A running `launcher/leash`, or for groups `leash`; `close` ends what is on it.

    So does the end of this process. Only `platform.distro` has groups, which are asked to end first.
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
            self._start([*(program or (str(native.program("leash")),)), *words], theirs, pass_fds, stderr)
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
    def of_process(cls, process: int) -> Leash:
        """With a process on it, of which `process` is a descriptor."""
        return cls(["process", str(process)], pass_fds=(process,))

    @classmethod
    def of_group(cls, leader: int) -> Leash:
        """With a process group on it, whose leader is this process's child and was not waited for yet."""
        descriptor = os.pidfd_open(leader)
        try:
            python = proc.python("packhorse.sandbox.leash")
            return cls([str(descriptor), str(leader)], pass_fds=(descriptor,), program=python)
        finally:
            os.close(descriptor)

    def let_go(self) -> None:
        """Has the process on the leash ended, without waiting for it; `close` does."""
        with suppress(OSError):  # it is over already
            self._end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends the process on the leash and waits for it; a second time does nothing."""
        if self._end.fileno() < 0:
            return
        with self._end:
            self.let_go()
            self._process.wait()
            try:
                _, descriptors, _, _ = socket.recv_fds(self._end, 1, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                _end(descriptor)  # which the leash has done, unless it was killed itself
                os.close(descriptor)


def _end(process: int) -> None:
    """Kills a process; returns when it has ended, and with a first process all of its namespace."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    ended = select.poll()
    ended.register(process, select.POLLIN)
    ended.poll()
