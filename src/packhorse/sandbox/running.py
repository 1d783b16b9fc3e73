"""An open sandbox and the commands that run in it: the Sandbox of phases, made by `runner`.

The first process tells of each command that it has ended, and then, once no other runs, that nothing else is
left (`init`). Only after that is anything read of what they have written.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from packhorse.base.dataclass import replace
from packhorse.base.step import Command, Network, Output, Result, SandboxSpec
from packhorse.base.tree import TreeEdit
from packhorse.errors import PackhorseError, SandboxError
from packhorse.sandbox import commands, executable, order, relay, seccomp, streams
from packhorse.sandbox.limits import LimitEnforcer
from packhorse.sandbox.order import Order
from packhorse.sandbox.process import Pipes, Process
from packhorse.sandbox.terminal import Terminal

if TYPE_CHECKING:
    from packhorse.sandbox.listeners import Listener

_AT_ONCE_LIMIT = 128
"""How many commands run at once at most."""

_KILLED = 128 + signal.SIGKILL
"""The status of a command that has ended with its sandbox."""


class _RunningCommand:
    """A command that runs, or has run: `ended` has its status and how long it took, `refusal` why it did not
    run.
    """

    def __init__(self, command: Command, pipes: Pipes) -> None:
        self.command = command
        self.pipes = pipes
        self.began = time.monotonic()
        self.ended: tuple[int, float] | None = None
        self.refusal: PackhorseError | None = None

    def end(self, status: int) -> None:
        self.ended = self.ended or (status, time.monotonic() - self.began)

    def outcome(self, exceeded: Callable[[int], str]) -> Result | PackhorseError:
        if self.refusal is not None:
            return self.refusal
        status, seconds = self.ended or (_KILLED, time.monotonic() - self.began)
        return Result(status, seconds, exceeded=exceeded(status))


class RunningSandbox:
    """A Sandbox. `shell_line` makes the line that repeats a step from a shell, which only a failure needs.

    `owner` is the user of its commands by the ids of this machine, who can open /dev/stdout anew.
    """

    def __init__(
        self,
        spec: SandboxSpec,
        process: Process,
        tree: TreeEdit,
        limits: LimitEnforcer,
        shell_line: Callable[[SandboxSpec], str],
        *,
        owner: tuple[int, int] | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        self._step = spec
        self._process = process
        self._tree = tree
        self._limits = limits
        self._shell_line = shell_line
        self._owner = owner
        self._terminal = terminal
        self._started: dict[int, _RunningCommand] = {}
        self._is_alone = False
        self._program = seccomp.make_filter()

    @property
    def tree(self) -> TreeEdit:
        """The file tree as commands see it, before, while and after they run."""
        return self._tree

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        """Runs a command, or the step's own; its output is handed on from this thread.

        A step that is attached, or has a terminal, gives `output` nothing. Any other has an empty stdin, and
        without `output` its stdout and stderr go to this process's stdout.
        """
        command = command or self._step.command
        if self._terminal is not None or self._step.attached:
            outcome = self._run_attached(command)
        else:
            given = output or _write_stdout
            (outcome,) = self.run_all([command], lambda _, chunk: given(chunk), at_once=1)
        if isinstance(outcome, PackhorseError):
            raise outcome
        if outcome.status == 0:
            return outcome
        line = ""
        with suppress(OSError):  # a disk that is full
            line = self._shell_line(_with_command(self._step, command))
        return replace(outcome, command=line)

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        """Runs commands side by side; their output is handed on from this thread."""
        waiting = list(enumerate(commands))[::-1]
        outcomes: dict[int, Result | PackhorseError] = {}
        with self._limits.watch(self._process.kill), ExitStack() as stack:
            self._started = {}
            while waiting or not self._is_over():
                while waiting and self._count() < min(at_once, _AT_ONCE_LIMIT):
                    number, command = waiting.pop()
                    try:
                        pipes = Pipes(owner=self._owner)
                        self._start(number, command, stack.enter_context(pipes), pipes.theirs)
                    except PackhorseError as error:
                        outcomes[number] = error
                if self._started:
                    self._wait(output)
            for number, started in self._started.items():
                while not started.pipes.is_empty and (
                    chunk := os.read(started.pipes.output.fileno(), relay.CHUNK)
                ):
                    output(number, chunk)
        for number, started in self._started.items():
            outcomes[number] = started.outcome(self._limits.find_exceeded)
        return [outcomes[number] for number in range(len(commands))]

    def _wait(self, output: Callable[[int, bytes], None]) -> None:
        """Hands on what there is, and takes the answers that there are."""
        pipes = {
            one.pipes.output.fileno(): (number, one)
            for number, one in self._started.items()
            if not one.pipes.is_empty
        }
        channel = self._process.init.fileno()
        ready = relay.poll(dict.fromkeys((*pipes, channel), select.POLLIN))
        for each in ready.keys() - {channel}:
            number, one = pipes[each]
            if chunk := os.read(each, relay.CHUNK):
                output(number, chunk)
            else:
                one.pipes.is_empty = True
                one.pipes.output.close()  # of a thousand commands there would be too many
        if channel in ready:
            self._take_answer()

    def _run_attached(self, command: Command) -> Result | PackhorseError:
        with self._limits.watch(self._process.kill), ExitStack() as stack:
            self._started = {}
            attached = self._terminal is None
            pipes = stack.enter_context(Pipes(attached=attached, owner=self._owner))
            channel = self._process.init.fileno()
            if self._terminal is not None:
                words = self._terminal.words(commands.words_of(command), command.argv[0])
                given = (*pipes.theirs, *self._terminal.passed)
                self._start(0, command, pipes, given, words)
                self._terminal.run(command.argv[0], channel, self._finish)
            else:
                self._start(0, command, pipes, pipes.theirs)
                streams.exchange(pipes, channel, self._finish)
            self._finish()
        return self._started[0].outcome(self._limits.find_exceeded)

    def _start(
        self,
        number: int,
        command: Command,
        pipes: Pipes,
        given: Sequence[int],
        words: Sequence[str] = (),
    ) -> None:
        """Starts a command; raises PackhorseError for one that cannot be."""
        if not command.argv:
            raise SandboxError("a sandbox that has no command cannot run any")
        told: Order = commands.make_order(command, words)
        name = command.executable or command.argv[0]
        executable.check_executable(self._tree, name, cwd=command.cwd, env=command.env)
        self._is_alone = False
        self._started[number] = _RunningCommand(command, pipes)
        self._process.init.start(number, told, self._program, given)
        pipes.close_theirs()

    def _take_answer(self) -> None:
        answer = self._process.init.receive()
        if answer is None:  # a limit has ended the sandbox, or somebody outside
            self._process.kill()
            for started in self._started.values():
                started.end(_KILLED)
            self._is_alone = True
            return
        about = self._started.get(answer["command"])
        self._is_alone = answer["kind"] == order.GONE
        if about is not None and answer["kind"] == order.ENDED:
            about.end(answer["value"])
        elif about is not None and answer["kind"] == order.REFUSED:
            name = about.command.executable or about.command.argv[0]
            about.refusal = commands.start_error(name, about.command.cwd, answer)

    def _count(self) -> int:
        return sum(started.ended is None for started in self._started.values())

    def _is_over(self) -> bool:
        """Whether all that was started has ended, and nothing else is left."""
        return not self._started or (self._is_alone and not self._count())

    def _finish(self) -> None:
        """Returns when nothing runs any more."""
        while not self._is_over():
            self._take_answer()

    def find_listeners(self) -> frozenset[Listener]:
        """The TCP ports on which the command listens now. Safe from another thread."""
        from packhorse.sandbox.listeners import find_listeners  # for images that run, not for builds

        return find_listeners(self._process.pid, own_network=self._step.network is not Network.HOST)

    def signal(self, number: int) -> None:
        """Sends a signal to all commands that run; see `Sandbox`."""
        for command in tuple(self._started):
            self._process.init.signal(command, number)


def _with_command(spec: SandboxSpec, command: Command) -> SandboxSpec:
    return replace(spec, argv=command.argv, env=command.env, cwd=command.cwd, executable=command.executable)


def _write_stdout(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]
