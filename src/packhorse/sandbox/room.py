"""An open sandbox: its tree, its one run, and what came of it; a Room of phases, made by `runner`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from packhorse.base.step import Network, Output, Result, Step
from packhorse.base.tree import TreeEdit
from packhorse.errors import SandboxError
from packhorse.sandbox import executable, seccomp, streams
from packhorse.sandbox.limits import Bounds
from packhorse.sandbox.network import Pasta
from packhorse.sandbox.process import Process
from packhorse.sandbox.terminal import Terminal

if TYPE_CHECKING:
    from packhorse.sandbox.listeners import Listener

_TAIL = 4096
"""How many of the last bytes of a step's output are kept, to find the runtime's own message in."""


class Sandbox:
    """A Room. `command` makes the line that repeats the step from a shell, which only a failure needs.

    `networks` are what its own network is made of, if it has one.
    """

    def __init__(
        self,
        step: Step,
        held: Process,
        tree: TreeEdit,
        bounds: Bounds,
        command: Callable[[Step], str],
        terminal: Terminal | None = None,
        networks: Sequence[Pasta] = (),
    ) -> None:
        self._step = step
        self._held = held
        self._tree = tree
        self._bounds = bounds
        self._command = command
        self._terminal = terminal
        self._networks = networks
        self._released = False

    @property
    def tree(self) -> TreeEdit:
        """The file tree as the step sees it, before, while and after it runs."""
        return self._tree

    @property
    def vacant(self) -> bool:
        """Whether it waits for a command."""
        return self._step.deferred and not self._step.argv and not self._released

    def assign(self, step: Step) -> None:
        """Says what a `deferred` step runs: `step`, which is it but for argv, env and cwd."""
        if not self.vacant:
            raise SandboxError("only a held step that waits for its command can be given one")
        self._held.assign(step)
        self._step = step

    def run(self, output: Output | None) -> Result:
        """Lets the step's command go and waits for it; its output is handed on from this thread.

        A step that is attached, or has a terminal, gives `output` nothing. Any other has an empty
        stdin, and without `output` its stdout and stderr go to this process's stdout.
        """
        if not self._step.argv or self._released:
            raise SandboxError("a step without a command, or one that has run, cannot be run")
        name = self._step.executable or self._step.argv[0]
        executable.check(self._tree, name, cwd=self._step.cwd, env=self._step.env)
        began = time.monotonic()
        self._released = True
        for pasta in self._networks:
            pasta.wait()
        with self._bounds.watched(self._held.kill):
            self._held.release(seccomp.program())
            tail = b""
            if self._terminal is not None:
                self._terminal.run(self._held, name)
            elif self._step.attached:
                tail = streams.exchange(self._held)
            else:
                tail = self._relay(output or _to_stdout)
            status = self._held.wait(name, tail.decode(errors="replace"))
            self._held.kill()
        for pasta in self._networks:
            pasta.let_go()
        command = ""
        if status:
            with suppress(OSError):  # a disk that is full
                command = self._command(self._step)
        return Result(status, time.monotonic() - began, command, self._bounds.exceeded(status))

    def _relay(self, output: Output) -> bytes:
        tail = b""

        def take(chunk: bytes) -> None:
            nonlocal tail
            tail = (tail + chunk)[-_TAIL:]
            output(chunk)

        self._held.relay(take)
        return tail

    def listeners(self) -> frozenset[Listener]:
        """The TCP ports on which the step listens now. Safe from another thread."""
        from packhorse.sandbox.listeners import listeners  # for images that run, not for builds

        return listeners(self._held.pid, own_network=self._step.network is not Network.HOST)

    def signal(self, number: int) -> None:
        """Sends a signal to the step's command; ignored when that has not begun or is gone."""
        pid = self._held.payload() if self._released else None
        if pid is None:
            return
        with suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            try:
                if self._held.payload() == pid:  # or the number is another's by now
                    signal.pidfd_send_signal(process, signal.Signals(number))
            finally:
                os.close(process)


def _to_stdout(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]
