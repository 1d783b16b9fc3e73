"""Opens sandboxes for builds and `run`, runs commands in them, and takes them down.

`host.wiring` makes one `SandboxRunner` a build, over the runtime that the user chose. Every runtime opens a
sandbox in the same order: mount points (`mounts`), the first process (the runtime's) and meanwhile its
network (`network`), then its tree (`fs.rooted`).

The first process reports the end of each command and then, once no other command runs, that nothing else is
left (`init`). Only after that does packhorse read what the commands wrote.

Teardown runs in the background, because the kernel takes longer for it than for setting up: to unmount an
overlay it writes out all pending data of its file system, and a network device waits until no processor uses
it. Only a command that mounts the same directories again, or has volumes, has to wait. No process sees what
is still mounted when packhorse ends, and its directories can be removed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from packhorse.base.dataclass import replace
from packhorse.base.installation import find_program
from packhorse.base.sandbox import Command, Network, Output, Result, SandboxSpec
from packhorse.base.tree import TreeEdit
from packhorse.errors import HostError, PackhorseError, SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.processes import detach, start
from packhorse.linux.userns import MapMode, Namespace
from packhorse.sandbox import network, seccomp
from packhorse.sandbox.init import (
    ENDED,
    GONE,
    REFUSED,
    Order,
    check_executable,
    check_words_of,
    make_order,
    start_error,
    words_of,
)
from packhorse.sandbox.limits import LimitEnforcer, check, explain_full_disk
from packhorse.sandbox.mounts import Layout, Layouts
from packhorse.sandbox.network import Pasta
from packhorse.sandbox.process import Pipes, Process
from packhorse.sandbox.terminal import CHUNK, Terminal, exchange, poll

if TYPE_CHECKING:
    from packhorse.sandbox.network import Listener

_TIMEOUT = 0.01
"""Seconds in which the mounts of a small build are gone."""


class TeardownQueue:
    """A context, which ends when all is taken down but perhaps mounts."""

    def __init__(self) -> None:
        self._networks: list[Pasta] = []
        self._holders: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._holders:
            detach(self._holders.pop(), timeout=_TIMEOUT)
        for pasta in self._networks:
            pasta.close()

    def add_network(self, pasta: Pasta) -> None:
        """Takes down a network that no step uses any more."""
        pasta.terminate()
        self._networks.append(pasta)

    def add_mounts(self, descriptor: int) -> None:
        """Closes a descriptor, with which mounts go."""
        if not self._hand_over(descriptor):
            os.close(descriptor)

    def _hand_over(self, descriptor: int) -> bool:
        """Has another process be the last to have a descriptor, so that the kernel works in the end of that.

        False when there is none.
        """
        held, hold = os.pipe()
        try:
            words = [str(find_program("leash")), "last", str(descriptor)]
            self._holders.append(start(words, pass_fds=[descriptor], stdin=held))
            os.close(descriptor)
        except (OSError, HostError):
            return False
        finally:
            os.close(held)
            os.close(hold)
        return True


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
                while not started.pipes.is_empty and (chunk := os.read(started.pipes.output.fileno(), CHUNK)):
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
        ready = poll(dict.fromkeys((*pipes, channel), select.POLLIN))
        for each in ready.keys() - {channel}:
            number, one = pipes[each]
            if chunk := os.read(each, CHUNK):
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
                words = self._terminal.words(words_of(command), command.argv[0])
                given = (*pipes.theirs, *self._terminal.passed)
                self._start(0, command, pipes, given, words)
                self._terminal.run(command.argv[0], channel, self._finish)
            else:
                self._start(0, command, pipes, pipes.theirs)
                exchange(pipes, channel, self._finish)
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
        told: Order = make_order(command, words)
        name = command.executable or command.argv[0]
        check_executable(self._tree, name, cwd=command.cwd, env=command.env)
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
        self._is_alone = answer["kind"] == GONE
        if about is not None and answer["kind"] == ENDED:
            about.end(answer["value"])
        elif about is not None and answer["kind"] == REFUSED:
            name = about.command.executable or about.command.argv[0]
            about.refusal = start_error(name, about.command.cwd, answer)

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
        from packhorse.sandbox.network import find_listeners  # for images that run, not for builds

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


class Runtime(Protocol):
    """What makes sandboxes with the ids of one user namespace."""

    def start(self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]) -> Process:
        """Makes the step's mounts and starts the first process; SandboxError in its own words.

        `on_started` is told of that process as soon as it has its namespaces, mounts or not. It reaches no
        abstract socket of others (`starter`).
        """
        ...

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """A line for a shell that starts the same step, as long as the build's directories are there.

        Behind its last ` -- ` stands the step's command. OSError when what it reads cannot be written.
        """
        ...


class SandboxRunner:
    """A Runner whose steps are made by `runtime` with the ids of `namespace`.

    `scratch` is a directory that `platform` makes for the build and removes; in it `mount-points-…` and
    `resolv-…` are the runner's. `loopback` are ports of the host's loopback (a proxy's) that steps with a
    network of their own find at theirs. Steps may be opened side by side. `terminal` is the native program
    that steps with a terminal begin as. `cgroups` is the directory where control groups are noted, made when
    it is missing; without it there are none. `mount_points` is the directory in which mount points are kept,
    if they are. With `teardown` a step that is over does not wait until its network and its mounts are taken
    down.
    """

    def __init__(
        self,
        runtime: Runtime,
        namespace: Namespace,
        *,
        scratch: Path,
        loopback: Sequence[int] = (),
        terminal: Path | None = None,
        cgroups: Path | None = None,
        mount_points: Path | None = None,
        teardown: TeardownQueue | None = None,
    ) -> None:
        self._runtime = runtime
        self._idmap = namespace.idmap
        self._scratch = scratch
        self._loopback = tuple(loopback)
        self._terminal = terminal
        self._cgroups = cgroups
        self._numbers = count(1)
        self._layouts = Layouts(scratch, namespace.idmap, kept=mount_points)
        self._teardown = teardown

    @contextmanager
    def open(self, spec: SandboxSpec) -> Iterator[RunningSandbox]:
        """Makes the step's sandbox; leaving the context ends all that still runs there.

        SandboxError, with the runtime's own words, when it cannot be made; DiskFull; InputError for ports
        that cannot be had; HostError for a user that the namespace has not.
        """
        check_words_of(spec)
        network.check_ports(spec)
        number = next(self._numbers)
        spec = network.with_name_service(spec, self._scratch / f"resolv-{number}.conf")
        layout = self._layouts.layout_for(spec)
        places = {layout.place(mount.target) for mount in spec.mounts}
        if "/proc" in places:
            raise SandboxError(
                "nothing can be mounted at /proc", why="it is the kernel's, and sandboxes begin with it"
            )
        with ExitStack() as stack:
            terminal = self._open_terminal(spec)
            if terminal is not None:
                stack.callback(terminal.close)
            own_memory = places.isdisjoint(("/dev", "/dev/shm"))
            bounds = LimitEnforcer(spec, records=self._cgroups, own_shared_memory=own_memory)
            stack.callback(bounds.close)
            owner = self._idmap.to_outside(spec.uid, spec.gid)
            editor = owner if self._idmap.mode is MapMode.ROOT else None
            networks: list[network.Pasta] = []

            def begun(pid: int) -> None:
                bounds.apply(pid, owner)
                if spec.network is Network.OWN:
                    pasta = network.Pasta(pid, ports=spec.ports, loopback=self._loopback)
                    stack.callback(self._remove_network, pasta)
                    networks.append(pasta)

            with explain_full_disk(self._scratch):
                held = self._runtime.start(spec, layout, begun)
            stack.callback(held.close)
            root = held.open_root(self._unmount)
            tree = stack.enter_context(RootedTree(root, idmap=self._idmap, owner=editor, whiteouts=False))
            check(root, spec, layout, self._scratch)
            for pasta in networks:
                pasta.wait()
            line = partial(self._runtime.shell_line, layout=layout)
            yield RunningSandbox(spec, held, tree, bounds, line, owner=editor, terminal=terminal)

    def _remove_network(self, pasta: network.Pasta) -> None:
        if self._teardown is None:
            pasta.close()
        else:
            self._teardown.add_network(pasta)

    def _unmount(self, descriptor: int) -> None:
        if self._teardown is None:
            os.close(descriptor)
        else:
            self._teardown.add_mounts(descriptor)

    def _open_terminal(self, spec: SandboxSpec) -> Terminal | None:
        if not spec.terminal:
            return None
        if self._terminal is None:
            raise SandboxError("a step with a terminal needs the program that makes it")
        return Terminal(self._terminal)
