"""Bubblewrap as a process that is held, let go and ended; called by `bubblewrap` and `room`.

How it is held (*tried*, bubblewrap 0.11): `--block-fd` is a pipe that has its byte already. Bubblewrap takes
it and closes the pipe when all mounts are made and its privileges are gone, and that is how this process
learns of it. It then reads its system call filter from `--seccomp`, another pipe, and so waits until
`release` writes the filter. Should this process die meanwhile, the pipe ends, the kernel refuses an empty
filter, and nothing runs.

Until then bubblewrap is left to come to that end by itself: its first child waits for a word of it. Killed
before it says that, or by SIGPIPE while it reports the child, it would leave the child waiting for ever; so
its reports go into memory, not into a pipe.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

from packhorse.base import proc
from packhorse.errors import SandboxError

_PATIENCE = 10.0
"""Seconds within which a bubblewrap that is not wanted any more ends by itself: a disk may be slow."""


class Held:
    """A started bubblewrap; its step's first process, `pid`, has its mounts and waits.

    `words` start it; `userns` is the descriptor of its namespace, or what stands for that in `words`.
    `output` is where the step's stdout and stderr come from, unless it `inherits` them. `passed` are further
    descriptors that its command has. `ended` is readable when the step has ended.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        userns: int | str,
        options: Sequence[str],
        command: Sequence[str],
        inherits: bool,
        passed: Sequence[int] = (),
    ) -> None:
        self._own = ExitStack()
        self._inherits = inherits
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = self.pid = -1
        try:
            block = self._start(words, userns, options, command, passed)
            self._wait_for_mounts(block)
        except BaseException:
            self.close()
            raise

    def _start(
        self,
        words: Sequence[str],
        userns: int | str,
        options: Sequence[str],
        command: Sequence[str],
        passed: Sequence[int],
    ) -> int:
        """Starts bubblewrap; returns our end of the pipe that is closed when the mounts are made."""
        with ExitStack() as theirs:
            block, blocked = self._pipe(theirs, read_by_us=False)
            self._filter, held = self._pipe(theirs, read_by_us=False)
            self.output, printed = self._pipe(theirs, read_by_us=True)
            given = theirs.enter_context(_memory(options))
            self._status = self._own.enter_context(FileIO(os.memfd_create("status", os.MFD_CLOEXEC), "r+"))
            status = self._status.fileno()
            block.write(b"\0")
            others = (*passed, userns) if isinstance(userns, int) else passed
            # `--sync-fd` makes bubblewrap close the namespace's descriptor, which the step would inherit.
            line = [*words, "--userns", str(userns), "--sync-fd", str(userns), "--args", str(given)]
            line += ["--block-fd", str(blocked), "--seccomp", str(held), "--json-status-fd", str(status)]
            self._process = subprocess.Popen(
                [*line, "--", *command],
                pass_fds=(*others, blocked, held, status, given),
                stdin=None if self._inherits else subprocess.DEVNULL,
                stdout=None if self._inherits else printed,
                stderr=None if self._inherits else printed,
                # Ctrl-C would end bubblewrap, and with it the step, before anybody is asked.
                process_group=0,
                cwd="/",
                # Nothing of this process's environment: bubblewrap is pid 1 inside, and can be read there.
                env={},
                umask=0o022,
                extra_groups=[] if os.geteuid() == 0 else None,
            )
            self.ended = os.pidfd_open(self._process.pid)
            self._own.callback(os.close, self.ended)
        return block.fileno()

    def _wait_for_mounts(self, block: int) -> None:
        ready = select.poll()
        ready.register(block, 0)  # POLLERR, when nobody can read any more
        ready.poll()
        (unread,) = struct.unpack("i", fcntl.ioctl(block, termios.FIONREAD, b"\0" * 4))
        told = self._told("child-pid")
        if told is None or unread:
            raise SandboxError("the sandbox cannot be made", why=self.words())
        self._pidfd = os.pidfd_open(told)
        self._own.callback(os.close, self._pidfd)
        self.pid = told

    def _told(self, name: str) -> int | None:
        """What bubblewrap has reported under `name`, so far."""
        for line in os.pread(self._status.fileno(), 65536, 0).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if name in document:
                    return int(document[name])
        return None

    def words(self) -> str:
        """What bubblewrap says of its failure, on which it ends."""
        if self._inherits:
            return "bubblewrap's message is above"
        said: list[bytes] = []
        proc.relay(self.output.fileno(), said.append)
        return b"".join(said).decode(errors="replace").strip()

    def open_root(self) -> int:
        """A descriptor of the step's root directory; it stays readable when the processes are gone.

        The mount namespace is held as well, without which the mounts below the root would go with the
        processes.
        """
        mounts = os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._own.callback(os.close, mounts)
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

    def release(self, program: bytes) -> None:
        """Lets the step begin, under the system call filter `program`."""
        self._filter.write(program)
        self._filter.close()

    def wait(self) -> tuple[int, bool]:
        """The exit status, and whether it is that of the step's command (else of a failure to start it)."""
        assert self._process is not None
        status = proc.status_of(self._process.wait())
        return status, self._told("exit-code") is not None

    def payload(self) -> int | None:
        """The pid of the step's command, or None when it has not begun or is gone."""
        try:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            for child in children:
                status = Path(f"/proc/{child}/status").read_text()
                (numbers,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
                # The first process is bubblewrap's, which waits for orphans; the second is the command.
                if numbers.split()[-1] == "2":
                    return int(child)
        except OSError:
            pass
        return None

    def kill(self) -> None:
        """Ends the step's first process, and with it all others of its namespace."""
        if self.pid >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Ends whatever still runs and closes everything."""
        self.kill()
        if self._process is not None and self.pid >= 0:
            self._process.wait()
        self._own.close()
        if self._process is not None:
            self._wait_for_failure(self._process)

    def _wait_for_failure(self, process: subprocess.Popen[bytes]) -> None:
        """Waits for a bubblewrap that has no filter to get and so will end; kills one that is stuck."""
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _pipe(self, theirs: ExitStack, *, read_by_us: bool) -> tuple[FileIO, int]:
        """A pipe: our end, closed with this, and the end for bubblewrap, closed with `theirs`."""
        read, write = os.pipe()
        mine, other = (read, write) if read_by_us else (write, read)
        theirs.callback(os.close, other)
        return self._own.enter_context(FileIO(mine, "r" if read_by_us else "w")), other


class Leash:
    """A running `leash`; `close` ends what is on it, and so does the end of this process."""

    def __init__(
        self, words: Sequence[str], *, pass_fds: Sequence[int] = (), stderr: IO[bytes] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [*proc.python("packhorse.sandbox.leash"), *words],
            pass_fds=pass_fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={},
        )

    def close(self) -> None:
        """Ends the process on the leash and waits for it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextmanager
def _memory(words: Sequence[str]) -> Iterator[int]:
    """A descriptor from which bubblewrap reads `words`: its own command line could be read by every user."""
    if any("\0" in word for word in words):
        raise SandboxError("a step's environment or paths have a NUL character")
    descriptor = os.memfd_create("options", os.MFD_CLOEXEC)
    try:
        with FileIO(descriptor, "w", closefd=False) as file:
            file.write(b"".join(os.fsencode(word) + b"\0" for word in words))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)
