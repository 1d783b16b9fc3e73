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
import re
import select
import socket
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from packhorse.base import proc
from packhorse.base.step import Step
from packhorse.errors import SandboxError
from packhorse.sandbox import arguments, blame, commands, executable, starter
from packhorse.sandbox.order import Order, encode
from packhorse.sandbox.process import Leash, Process

_OFTEN = 1
"""Milliseconds after which it is looked whether bubblewrap has made its child."""


class BubblewrapProcess(Process):
    """A started bubblewrap.

    `words` start it; `userns` is the descriptor of its namespace, or what stands for that in `words`.
    `passed` are further descriptors that its command has. `begun` is told of bubblewrap's child, which has
    its namespaces then and not yet all of its mounts. It is `leashed` if the step's id is none that
    bubblewrap's end could reach. With `init`, `launcher/init` begins in place of `command`, and executes
    `assigned`, or what is assigned later.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        userns: int | str,
        options: Sequence[str],
        command: Sequence[str],
        attached: bool,
        leashed: bool,
        passed: Sequence[int] = (),
        init: Path | None = None,
        assigned: Step | None = None,
        begun: Callable[[int], None] = lambda pid: None,
    ) -> None:
        super().__init__(attached=attached)
        self._channel: socket.socket | None = None
        self._order: Order | None = None
        try:
            with ExitStack() as theirs:
                if init is not None:
                    passed = self._told_later(theirs, init)
                    channel, program = map(str, passed)
                    command = [f"/proc/self/fd/{program}", channel, program]
                    if assigned is not None:
                        self.assign(assigned)
                block = self._start(words, userns, options, command, passed)
            self._wait_for_mounts(block, begun)
            if leashed:
                self._own.callback(Leash.of_process(self._pidfd).close)
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
            stdin, stdout, stderr = self._stdio(theirs)
            given = theirs.enter_context(_memory(options))
            self._status = self._own.enter_context(FileIO(os.memfd_create("status", os.MFD_CLOEXEC), "r+"))
            status = self._status.fileno()
            block.write(b"\0")
            others = (*passed, userns) if isinstance(userns, int) else passed
            # `--sync-fd` makes bubblewrap close the namespace's descriptor, which the step would inherit.
            line = [*words, "--userns", str(userns), "--sync-fd", str(userns), "--args", str(given)]
            line += ["--block-fd", str(blocked), "--seccomp", str(held), "--json-status-fd", str(status)]
            self._process = starter.start(
                [*line, "--", *command],
                pass_fds=(*others, blocked, held, status, given),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                # Ctrl-C would end bubblewrap, and with it the step, before anybody is asked.
                process_group=0,
                cwd="/",
                # Nothing of this process's environment: bubblewrap is pid 1 inside, and can be read there.
                env={},
                umask=0o022,
                # Who hands over a namespace gives up root's groups itself; to do it here costs a copy of this
                # process's page tables.
                extra_groups=[] if os.geteuid() == 0 and isinstance(userns, int) else None,
            )
            self.ended = self._pidfd_of(self._process.pid)
        return block.fileno()

    def _wait_for_mounts(self, block: int, begun: Callable[[int], None]) -> None:
        ready = select.poll()
        ready.register(block, 0)  # POLLERR, when nobody can read any more
        early, gone = None, None
        while early is None and not ready.poll(_OFTEN):
            early = self._child()
        if early is not None:
            try:
                begun(early)
            except (FileNotFoundError, ProcessLookupError) as error:
                gone = error
        ready.poll()
        (unread,) = struct.unpack("i", fcntl.ioctl(block, termios.FIONREAD, b"\0" * 4))
        told = self._told("child-pid")
        if told is None or unread:
            words = self.words()
            raise SandboxError(
                "the sandbox cannot be made", why=words, check=blame.check(words, "bubblewrap")
            )
        if gone is not None:  # something else than a child that fails, which has said why
            raise gone
        if early is None:
            begun(told)
        self._hold(told)

    def _child(self) -> int | None:
        """Bubblewrap's child, once it has a root of its own.

        Before that it brings up the loopback of a new network, which fails if somebody else has (*tried*:
        pasta does).
        """
        pid = self._told("child-pid")
        if pid is not None:
            with suppress(OSError):
                if not os.path.samestat(os.stat(f"/proc/{pid}/root/"), os.stat("/")):  # noqa: PTH116
                    return pid
        return None

    def _told(self, name: str) -> int | None:
        """What bubblewrap has reported under `name`, so far."""
        for line in os.pread(self._status.fileno(), 65536, 0).splitlines():
            with suppress(ValueError):
                document = json.loads(line)
                if name in document:
                    return int(document[name])
        return None

    def _told_later(self, theirs: ExitStack, init: Path) -> tuple[int, int]:
        """What `init` is started with: the end of a channel to it, and a descriptor of itself."""
        self._channel, other = self._sockets(theirs, socket.SOCK_STREAM)
        program = os.open(init, os.O_PATH | os.O_CLOEXEC)
        theirs.callback(os.close, program)
        return other, program

    def assign(self, step: Step) -> None:
        """See `Process`; as bubblewrap does, tells the command where it begins."""
        self._order = commands.order(step, arguments.command(step))
        self._order["environment"]["PWD"] = step.cwd

    def release(self, program: bytes) -> None:
        """Lets the step begin, under the system call filter `program`."""
        with suppress(ConnectionError):  # it is gone, which `wait` tells
            self._filter.write(program)
            self._filter.close()
            if self._channel is not None and self._order is not None:
                self._channel.sendall(encode(self._order, b""))
        self._filter.close()

    def wait(self, name: str, tail: str) -> int:
        """The status; an error of bubblewrap's, which it says in its last line and ends with 1."""
        assert self._process is not None
        status = proc.status_of(self._process.wait())
        if self._channel is not None and self._order is not None:
            with suppress(ConnectionError):  # it ended before it had read its order
                if refused := self._channel.recv(64):
                    raise commands.refusal(name, refused, self._order)
        if status != 1 or self._told("exit-code") is not None:
            return status
        found = re.search(r"^bwrap: execvp .*: (.*)$", tail, re.MULTILINE)
        if found is None:
            raise SandboxError(
                f"{name} could not be started", why=tail.strip(), check=blame.check(tail, "bubblewrap")
            )
        if self._channel is not None:
            raise SandboxError("what a step begins as cannot be started", why=found[1], check="installation")
        raise executable.refusal(name, found[1])


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
