"""Runs buildpacks as plain processes over the machine's own file tree, for a lifecycle inside a builder.

There is no sandbox: a buildpack sees what this process sees, with the rights that it has (SECURITY.md says
what that means). `InPlaceRunner` is the `Runner` port. When a command has ended, everything that it left
running is killed, so that nothing changes a layer while it is read: its process group, and the processes that
left it, which the kernel hands to this process as their subreaper (prctl(2)).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.base.sandbox import Command, Output, Result
from packhorse.base.tree import TreeEdit, TreeView
from packhorse.errors import CommandNotFound, NotExecutable, PackhorseError, SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.linux.syscalls import become_subreaper

_CHUNK = 1 << 16
_SIGNAL = 128
_ROUNDS = 100
"""How often leftover processes are looked for: each round kills what the last one's victims had started."""


class InPlaceRunner:
    """The runner over the root file system of this process. Commands inherit no variables."""

    def __init__(self, tree: RootedTree) -> None:
        self._tree = tree
        self._sandbox = InPlaceSandbox(tree)

    @contextmanager
    def open(self, purpose: SandboxPurpose) -> Iterator[InPlaceSandbox]:
        """Returns the one sandbox: detection and build see the same files."""
        yield self._sandbox

    @contextmanager
    def builder_files(self) -> Iterator[TreeView]:
        """The files of this machine."""
        yield self._tree

    def result_tree(self) -> TreeEdit:
        """The files of this machine."""
        return self._tree

    def confirm_source(self) -> bool:
        """Returns True: the source is where it is."""
        return True


class InPlaceSandbox:
    """Runs commands, and ends what they leave running. Not safe for several threads, except `signal`."""

    def __init__(self, tree: TreeEdit) -> None:
        self._tree = tree
        self._running: dict[int, _Process] = {}
        become_subreaper()

    @property
    def tree(self) -> TreeEdit:
        """The file tree as commands see it."""
        return self._tree

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        """Runs a command; see `base.sandbox.Sandbox`. There is no default command."""
        if command is None:
            raise SandboxError("there is no command to run", why="this is a defect of packhorse")
        sink = output or (lambda chunk: None)
        (result,) = self.run_all([command], lambda _, chunk: sink(chunk), at_once=1)
        if isinstance(result, PackhorseError):
            raise result
        return result

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        """Runs up to `at_once` commands at the same time; see `base.sandbox.Sandbox`."""
        results: dict[int, Result | PackhorseError] = {}
        waiting = list(enumerate(commands))
        with selectors.DefaultSelector() as selector, _Bell() as bell:
            selector.register(bell.end, selectors.EVENT_READ)
            while waiting or self._running:
                while waiting and len(self._running) < at_once:
                    number, command = waiting.pop(0)
                    started = _start(number, command, bell)
                    if isinstance(started, PackhorseError):
                        results[number] = started
                        continue
                    self._running[number] = started
                    selector.register(started.pipe, selectors.EVENT_READ, started)
                if not self._running:
                    continue
                for key, _ in selector.select():
                    if key.data is None:
                        bell.clear()
                    elif chunk := key.data.read():
                        output(key.data.number, chunk)
                    else:
                        selector.unregister(key.fd)
                for process in [each for each in self._running.values() if each.is_over]:
                    process.kill_group()
                    if len(self._running) == 1:
                        # Nobody else runs, so every other child is a leftover. It may hold the pipe open.
                        kill_leftovers()
                    if process.pipe in selector.get_map():
                        for chunk in process.drain():
                            output(process.number, chunk)
                        selector.unregister(process.pipe)
                    results[process.number] = process.result()
                    del self._running[process.number]
        kill_leftovers()
        return [results[number] for number in range(len(commands))]

    def signal(self, number: int) -> None:
        """Sends a signal to all running commands and their process groups."""
        for process in list(self._running.values()):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)


class _Bell:
    """A pipe on which other threads wake the one that waits in `select`."""

    def __enter__(self) -> _Bell:
        self.end, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.end)
        os.close(self._ring)

    def ring(self) -> None:
        """Wakes the other thread."""
        with suppress(BlockingIOError):
            os.write(self._ring, b".")

    def clear(self) -> None:
        """Forgets all rings."""
        with suppress(BlockingIOError):
            os.read(self.end, _CHUNK)


class _Process:
    """A running command: a thread waits for its end, because its pipe may stay open after that."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], bell: _Bell) -> None:
        assert process.stdout is not None
        self.number = number
        self.pid = process.pid
        self.is_over = False
        self._process = process
        self._began = time.monotonic()
        self._seconds = 0.0
        self._stdout = process.stdout
        self.pipe = process.stdout.fileno()
        os.set_blocking(self.pipe, False)
        self._waiter = threading.Thread(target=self._wait, args=[bell])
        self._waiter.start()

    def _wait(self, bell: _Bell) -> None:
        self._process.wait()
        self._seconds = time.monotonic() - self._began
        self.is_over = True
        bell.ring()

    def read(self) -> bytes:
        """Reads what is in the pipe; b"" at its end."""
        return os.read(self.pipe, _CHUNK)

    def drain(self) -> Iterator[bytes]:
        """Yields what is left in the pipe. Does not wait for another process that holds it open."""
        with suppress(BlockingIOError):
            while chunk := self.read():
                yield chunk

    def kill_group(self) -> None:
        """Kills what is left of the command's process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def result(self) -> Result:
        """How the command ended."""
        self._waiter.join()
        self._stdout.close()
        status = self._process.returncode
        return Result(_SIGNAL - status if status < 0 else status, self._seconds)


def _start(number: int, command: Command, bell: _Bell) -> _Process | PackhorseError:
    program = command.executable or command.argv[0]
    try:
        process = subprocess.Popen(
            command.argv,
            executable=program,
            env=_encode(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        return _start_error(program, command.cwd, error)
    return _Process(number, process, bell)


def _encode(env: Mapping[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in env.items()}


def _start_error(program: str, cwd: str, error: OSError) -> PackhorseError:
    why = error.strerror or str(error)
    if not Path(cwd).is_dir():
        return SandboxError(f"{program} cannot be started", why=f"its directory {cwd}: {why}")
    if isinstance(error, FileNotFoundError):
        missing = "its interpreter does not exist" if Path(program).exists() else "it does not exist"
        return CommandNotFound(f"{program} cannot be started", why=missing)
    if isinstance(error, PermissionError) or error.errno == 8:  # ENOEXEC: neither a program nor a script
        return NotExecutable(f"{program} cannot be started", why=why)
    return SandboxError(f"{program} cannot be started", why=why)


def kill_leftovers() -> None:
    """Kills and reaps every child of this process that belongs to its user.

    Call it only while no command runs that may live on. It leaves the children of other users alone, which it
    cannot kill.
    """
    for _ in range(_ROUNDS):
        children = [child for child in find_children(os.getpid()) if _kill(child)]
        if not children:
            return
        for child in children:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _kill(process: int) -> bool:
    """Kills a process; False if this user may not."""
    try:
        os.kill(process, signal.SIGKILL)
    except PermissionError:
        return False
    except ProcessLookupError:
        pass
    return True


def find_children(parent: int) -> list[int]:
    """The processes whose parent is `parent`, by /proc/PID/stat."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with suppress(OSError, IndexError, ValueError):
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(entry.name))
    return found


def end_with_children(number: int) -> None:
    """Kills all children of this process, then ends it by the signal `number`. For a signal handler."""
    with suppress(OSError):
        kill_leftovers()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
