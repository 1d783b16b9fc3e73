"""Opens sandboxes for builds and `run`, runs commands in them, and takes them down.

`host.wiring` makes one `SandboxRunner` per build or run, with the runtime that the user chose. A sandbox is
opened in the same order for every runtime: its mount points (`mounts`), its first process (the runtime), its
network at the same time (`network`), then its file tree (`fs.rooted`).

The first process reports the end of each command. Once no command runs, it reports that no other process is
left (`init`). Only then does packhorse read what the commands wrote.

Teardown runs in the background, because it takes the kernel longer than setting up. To unmount an overlay,
the kernel writes out all pending data of its file system; to remove a network device, it waits until no
processor uses it. A sandbox with volumes waits for its teardown. When packhorse ends, no process sees the
mounts that are left, and their directories can be removed.
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
from packhorse.errors import HostError, PackhorseError, RunError, SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.processes import detach, start
from packhorse.linux.userns import MapMode, Namespace
from packhorse.sandbox import network, seccomp
from packhorse.sandbox.init import (
    ENDED,
    EXECUTION,
    GONE,
    REFUSED,
    Answer,
    check_executable,
    check_words_of,
    make_order,
    start_error,
    words_of,
)
from packhorse.sandbox.limits import GRACE, LimitEnforcer, Watch, check_overlays, explain_full_disk
from packhorse.sandbox.mounts import Layout, Layouts
from packhorse.sandbox.network import Pasta
from packhorse.sandbox.process import Pipes, Process
from packhorse.sandbox.terminal import CHUNK, Terminal, exchange, poll

if TYPE_CHECKING:
    from packhorse.sandbox.network import Listener

_TIMEOUT = 0.01
"""Seconds in which the mounts of a small build go away."""


class TeardownQueue:
    """A context manager that waits at its end for networks to be taken down. Mounts may take longer."""

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
        """Takes down a network that no sandbox uses any more."""
        pasta.terminate()
        self._networks.append(pasta)

    def add_mounts(self, descriptor: int) -> None:
        """Closes the descriptor of a mount namespace, and with it the mounts."""
        if not self._hand_over(descriptor):
            os.close(descriptor)

    def _hand_over(self, descriptor: int) -> bool:
        """Lets another process close the descriptor last, so that the kernel unmounts when that one ends.

        Returns False if no such process can be started.
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
"""The most commands that run at once."""

_KILLED = 128 + signal.SIGKILL
"""The status of a command that was killed with its sandbox."""


class _RunningCommand:
    """A command that was started. `ended` is its status and its seconds, `refusal` why it could not run."""

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
    """The `Sandbox` that `SandboxRunner.open` returns.

    `shell_line` makes the shell line that repeats a command; it is called only after a failure. `owner` is
    the user of the commands in host ids (see `Pipes`).
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
        self._spec = spec
        self._process = process
        self._tree = tree
        self._limits = limits
        self._shell_line = shell_line
        self._owner = owner
        self._terminal = terminal
        self._started: dict[int, _RunningCommand] = {}
        self._is_alone = False
        self._watch: Watch | None = None
        self._began = 0.0
        self._program = seccomp.make_filter()

    @property
    def tree(self) -> TreeEdit:
        """The file tree as commands see it: before, during and after their run."""
        return self._tree

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        """Runs `command`, or the default command; calls `output` from this thread.

        If the sandbox is attached or has a terminal, `output` gets nothing. Otherwise stdin is empty, and
        without `output` the command's stdout and stderr go to this process's stdout.
        """
        command = command or self._spec.command
        if self._terminal is not None or self._spec.attached:
            outcome = self._run_attached(command)
        else:
            write = output or _write_stdout
            (outcome,) = self.run_all([command], lambda _, chunk: write(chunk), at_once=1)
        if isinstance(outcome, PackhorseError):
            raise outcome
        if outcome.status == 0:
            return outcome
        line = ""
        with suppress(OSError):  # the disk is full: the result matters more than the line
            line = self._shell_line(_with_command(self._spec, command))
        return replace(outcome, command=line)

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        """Runs commands side by side, at most `at_once`; calls `output` from this thread."""
        waiting = list(enumerate(commands))[::-1]
        outcomes: dict[int, Result | PackhorseError] = {}
        with self._limits.watch(self._process.kill) as self._watch, ExitStack() as stack:
            self._started = {}
            self._began = time.monotonic()
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
        """Waits until a command prints something or init answers, and handles that."""
        pipes = {
            one.pipes.output.fileno(): (number, one)
            for number, one in self._started.items()
            if not one.pipes.is_empty
        }
        channel = self._process.init.fileno()
        ready = self._poll((*pipes, channel))
        for each in ready.keys() - {channel}:
            number, one = pipes[each]
            if chunk := os.read(each, CHUNK):
                output(number, chunk)
            else:
                one.pipes.is_empty = True
                one.pipes.output.close()  # at once: a thousand commands would need too many descriptors
        if channel in ready:
            self._take_answer()

    def _poll(self, descriptors: Sequence[int]) -> dict[int, int]:
        """Waits until one of the descriptors can be read. Starts the watch once the commands take longer."""
        wanted = dict.fromkeys(descriptors, select.POLLIN)
        if self._watch is not None and not self._watch.is_started:
            early = poll(wanted, max(self._began + GRACE - time.monotonic(), 0))
            if early and time.monotonic() < self._began + GRACE:
                return early
            self._watch.start()
        return poll(wanted)

    def _run_attached(self, command: Command) -> Result | PackhorseError:
        with self._limits.watch(self._process.kill) as watch, ExitStack() as stack:
            if watch is not None:
                watch.start()
            self._started = {}
            attached = self._terminal is None
            pipes = stack.enter_context(Pipes(attached=attached, owner=self._owner))
            channel = self._process.init.fileno()
            if self._terminal is not None:
                words = self._terminal.words(words_of(command), command.argv[0])
                descriptors = (*pipes.theirs, *self._terminal.passed)
                self._start(0, command, pipes, descriptors, words)
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
        descriptors: Sequence[int],
        words: Sequence[str] = (),
    ) -> None:
        """Starts a command, which gets `descriptors` as 0, 1 and on; raises PackhorseError if it cannot.

        `words` are executed in place of the command's own (see `Terminal.words`).
        """
        if not command.argv:
            raise SandboxError("this sandbox has no default command")
        order = make_order(command, words)
        if words:  # they are executed, so only this process can tell that the command is missing
            self._check_executable(command)
        self._is_alone = False
        self._started[number] = _RunningCommand(command, pipes)
        self._process.init.start(number, order, self._program, descriptors)
        pipes.close_theirs()

    def _take_answer(self) -> None:
        answer = self._process.init.receive()
        if answer is None:  # a limit, or somebody outside, has ended the sandbox
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
            about.refusal = self._make_refusal(about.command, answer)

    def _make_refusal(self, command: Command, answer: Answer) -> PackhorseError:
        """The error for a command that init could not start: what the file tree says of it, or else init."""
        if chr(answer["value"]) == EXECUTION:
            try:
                self._check_executable(command)
            except RunError as error:
                return error
        return start_error(command.executable or command.argv[0], command.cwd, answer)

    def _check_executable(self, command: Command) -> None:
        check_executable(self._tree, command.executable or command.argv[0], cwd=command.cwd, env=command.env)

    def _count(self) -> int:
        return sum(started.ended is None for started in self._started.values())

    def _is_over(self) -> bool:
        """Returns whether all commands have ended and no other process is left."""
        return not self._started or (self._is_alone and not self._count())

    def _finish(self) -> None:
        """Waits until no process is left."""
        while not self._is_over():
            self._take_answer()

    def find_listeners(self) -> frozenset[Listener]:
        """Returns the TCP ports on which the sandbox listens now. Another thread may call this."""
        from packhorse.sandbox.network import find_listeners  # for images that run, not for builds

        return find_listeners(self._process.pid, own_network=self._spec.network is not Network.HOST)

    def signal(self, number: int) -> None:
        """Sends a signal to all commands (see `Sandbox`)."""
        for command in tuple(self._started):
            self._process.init.signal(command, number)


def _with_command(spec: SandboxSpec, command: Command) -> SandboxSpec:
    return replace(spec, argv=command.argv, env=command.env, cwd=command.cwd, executable=command.executable)


def _write_stdout(chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(1, chunk) :]


class Runtime(Protocol):
    """Starts sandboxes with the ids of one user namespace: bubblewrap, or an OCI runtime."""

    def start(self, spec: SandboxSpec, layout: Layout, on_started: Callable[[int], None]) -> Process:
        """Makes the mounts and starts the first process. SandboxError has the runtime's own message.

        Calls `on_started` with the id of that process as soon as it has its namespaces, perhaps before its
        mounts. No process in the sandbox reaches abstract sockets outside of it.
        """
        ...

    def shell_line(self, spec: SandboxSpec, layout: Layout) -> str:
        """Returns a shell line that runs the spec's command again, as long as the build's directories exist.

        The command stands after the line's last ` -- `. OSError if the files that the line reads cannot be
        written.
        """
        ...


class SandboxRunner:
    """Opens sandboxes with `runtime` and the ids of `namespace`, several at once if need be.

    The caller makes and removes the directory `scratch`, in which the runner makes `mount-points-…` and
    `resolv-…`. `loopback` are ports of the host's loopback, such as a proxy's, that a sandbox with its own
    network finds at its own loopback. `terminal` is the native program that gives a command a terminal.
    `cgroups` is the directory with a record of each control group, made if missing; without it there are no
    control groups. `mount_points` is a directory that keeps mount points for later builds. With `teardown`,
    closing a sandbox does not wait until its network and its mounts are taken down.
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
        """Makes a sandbox; leaving the context kills what still runs there.

        Raises SandboxError with the runtime's own message, DiskFull, InputError for ports that cannot be
        published, and HostError for a user whom the namespace does not have.
        """
        check_words_of(spec)
        network.check_ports(spec)
        number = next(self._numbers)
        spec = network.with_name_service(spec, self._scratch / f"resolv-{number}.conf")
        layout = self._layouts.layout_for(spec)
        places = {layout.place(mount.target) for mount in spec.mounts}
        if "/proc" in places:
            raise SandboxError(
                "nothing can be mounted at /proc", why="every sandbox has the kernel's own /proc there"
            )
        with ExitStack() as stack:
            terminal = self._open_terminal(spec)
            if terminal is not None:
                stack.callback(terminal.close)
            own_memory = places.isdisjoint(("/dev", "/dev/shm"))
            limits = LimitEnforcer(spec, records=self._cgroups, own_shared_memory=own_memory)
            stack.callback(limits.close)
            owner = self._idmap.to_outside(spec.uid, spec.gid)
            editor = owner if self._idmap.mode is MapMode.ROOT else None
            networks: list[network.Pasta] = []

            def on_started(pid: int) -> None:
                limits.apply(pid, owner)
                if spec.network is Network.OWN:
                    pasta = network.Pasta(pid, ports=spec.ports, loopback=self._loopback)
                    stack.callback(self._remove_network, pasta)
                    networks.append(pasta)

            with explain_full_disk(self._scratch):
                process = self._runtime.start(spec, layout, on_started)
            stack.callback(process.close)
            root = process.open_root(self._unmount)
            tree = stack.enter_context(RootedTree(root, idmap=self._idmap, owner=editor, whiteouts=False))
            check_overlays(root, spec, layout, self._scratch)
            for pasta in networks:
                pasta.wait()
            line = partial(self._runtime.shell_line, layout=layout)
            yield RunningSandbox(spec, process, tree, limits, line, owner=editor, terminal=terminal)

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
            raise SandboxError("a sandbox with a terminal needs the program that makes the terminal")
        return Terminal(self._terminal)
