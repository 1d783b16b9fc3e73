"""Connects a command of `packhorse run` to this process: by pipes, or through its own pseudo terminal.

A command never gets this process's own descriptors, because it could open them again through /proc with the
rights of the user whose id it has (*tried*). So it could read what is typed into the terminal, write a file
that it should only read, or truncate one that it should append to.

In the user's terminal, the command would be in a session that its PID namespace does not see: shells fail at
job control (*tried*), and Ctrl-C would reach whatever else runs there. So the native program
`launcher/terminal` starts instead. It is executed by its descriptor, so no file in the sandbox is needed. It
makes a pseudo terminal inside, sends both ends to this process, and becomes the command, as leader of a
session with that terminal.
"""

from __future__ import annotations

import errno
import math
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from types import FrameType

from packhorse.errors import SandboxError
from packhorse.linux.processes import PIPE_GONE
from packhorse.sandbox.init import refusal_error
from packhorse.sandbox.process import Pipes

CHUNK = 65536
"""The most bytes that are read at once."""


def poll(wanted: Mapping[int, int], seconds: float | None = None) -> dict[int, int]:
    """Waits until descriptors are ready for the `wanted` events, at most some `seconds`.

    Returns the descriptors that are ready, and their events.
    """
    waiting = select.poll()
    for descriptor, events in wanted.items():
        waiting.register(descriptor, events)
    return dict(waiting.poll(None if seconds is None else math.ceil(seconds * 1000)))


def read(descriptor: int) -> bytes:
    """Reads what is there, empty at the end. A terminal that hung up, or is in another session, ends too."""
    try:
        return os.read(descriptor, CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def write(target: int, chunk: bytes) -> None:
    """Writes all of a chunk; raises OSError. Drops it if the terminal has hung up: SIGHUP reports that."""
    while chunk:
        try:
            chunk = chunk[os.write(target, chunk) :]
        except BlockingIOError:  # another program has made the user's terminal non-blocking
            poll({target: select.POLLOUT})
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return


_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _Input:
    """Copies stdin to the command's pipe. Ends when stdin ends, or when the command closes its own."""

    def __init__(self, pipe: FileIO) -> None:
        self._pipe = pipe
        self._pending = b""
        os.set_blocking(pipe.fileno(), False)

    def poll_events(self) -> dict[int, int]:
        """Returns what to wait for: not for stdin while the command has not taken what was read."""
        if self._pipe.closed:
            return {}
        if self._pending:
            return {self._pipe.fileno(): select.POLLOUT}
        return {self._pipe.fileno(): 0, _STDIN: select.POLLIN}

    def relay(self, ready: dict[int, int]) -> None:
        """Reads or writes what is ready."""
        if self._pipe.closed:
            return
        if ready.get(self._pipe.fileno(), 0) & select.POLLERR:  # nobody reads any more
            self._pipe.close()
            return
        if _STDIN in ready:
            self._pending = read(_STDIN)
            if not self._pending:
                self._pipe.close()
                return
        with suppress(BlockingIOError, BrokenPipeError):
            self._pending = self._pending[os.write(self._pipe.fileno(), self._pending) :]


def exchange(pipes: Pipes, ended: int, finish: Callable[[], None]) -> None:
    """Copies a command's stdin, stdout and stderr until all processes of the sandbox have ended.

    The descriptor `ended` is readable as soon as the command has ended; `finish` then waits for all others.
    If the reader of our stdout or stderr goes away, the command's pipe closes too. Raises SandboxError if
    they cannot be written for another reason.
    """
    assert pipes.input is not None and pipes.errors is not None
    stdin = _Input(pipes.input)
    printed = {pipes.output.fileno(): (pipes.output, _STDOUT), pipes.errors.fileno(): (pipes.errors, _STDERR)}
    running = True
    while running or printed:
        ready = poll(
            (stdin.poll_events() | {ended: select.POLLIN} if running else {})
            | dict.fromkeys(printed, select.POLLIN)
        )
        if running:
            stdin.relay(ready)
        if ended in ready:
            finish()
            running = False
        for number in printed.keys() & ready.keys():
            pipe, target = printed[number]
            chunk = os.read(number, CHUNK)
            if not chunk or not _write_all(target, chunk):
                pipe.close()
                del printed[number]


def _write_all(target: int, chunk: bytes) -> bool:
    """Writes all of a chunk; returns False if nobody reads any more."""
    try:
        write(target, chunk)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise _write_error(error) from error
    return True


def _write_error(error: OSError) -> SandboxError:
    return SandboxError("the output of the image cannot be written", why=error.strerror or "")


class Terminal:
    """A pseudo terminal that the native program `program` makes in the sandbox.

    The command has to be started with `words` and with the descriptors `passed` after its stdin, stdout and
    stderr.
    """

    def __init__(self, program: Path) -> None:
        self._own = ExitStack()
        self._channel, self._theirs = (self._own.enter_context(end) for end in socket.socketpair())
        descriptor = os.open(program, os.O_PATH | os.O_CLOEXEC)
        self._own.callback(os.close, descriptor)
        self.passed = (self._theirs.fileno(), descriptor)

    def words(self, command: Sequence[str], name: str) -> list[str]:
        """Returns the words to execute so that `command` has the terminal; its argv[0] will be `name`."""
        return ["/proc/self/fd/4", "3", "4", command[0], name, *command[1:]]

    def run(self, name: str, ended: int, finish: Callable[[], None]) -> None:
        """Copies what is typed and printed until all processes of the sandbox have ended.

        The descriptor `ended` is readable as soon as the command `name` has ended; `finish` then waits for
        all others. If this process's stdin is a terminal, it is raw meanwhile, so that every key reaches the
        command. The command's terminal follows the size of this process's. Only the main thread may call
        this, because it handles SIGWINCH.

        Raises CommandNotFound and NotExecutable if the kernel refuses the command, and SandboxError if the
        terminal cannot be made.
        """
        self._theirs.close()
        data, ends, _, _ = socket.recv_fds(self._channel, 1, 2, socket.MSG_CMSG_CLOEXEC)
        if not ends:
            why = os.strerror(data[0]) if data else "the program that makes it cannot be started"
            raise SandboxError("the image's terminal cannot be made", why=why, check="bubblewrap")
        # The slave stays open here too, because a master whose slaves are all closed answers EIO.
        with FileIO(ends[0], "r+") as master, FileIO(ends[1], "r+") as slave:
            os.set_blocking(master.fileno(), False)
            with _follow_size(master.fileno()), _raw_mode(_STDIN):
                self._channel.send(b"\0")
                refused = self._channel.recv(1)
                if refused:
                    raise refusal_error(name, os.strerror(refused[0]))
                _relay(master.fileno(), ended)
                finish()
                slave.close()
                _drain(master.fileno())

    def close(self) -> None:
        """Closes all descriptors."""
        self._own.close()


def _relay(master: int, ended: int) -> None:
    """Copies what is typed and printed until `ended` is readable.

    While the command does not read what was typed, this reads no more from stdin, but still copies the
    output. Otherwise both sides could wait for each other.
    """
    typed, listening = b"", True
    while True:
        wanted = {ended: select.POLLIN, master: select.POLLIN | (select.POLLOUT if typed else 0)}
        if listening and not typed:
            wanted[_STDIN] = select.POLLIN
        ready = poll(wanted)
        if _STDIN in ready:
            typed = read(_STDIN)
            listening = bool(typed)
        if typed:
            with suppress(BlockingIOError):
                typed = typed[os.write(master, typed) :]
        if ready.get(master, 0) & select.POLLIN:
            chunk = b""
            with suppress(BlockingIOError):  # the command may have discarded what was there
                chunk = read(master)
            _print(chunk)
        if ended in ready:
            return


def _drain(master: int) -> None:
    """Copies what is printed until the last process that has the terminal open has ended."""
    os.set_blocking(master, True)
    while chunk := read(master):
        _print(chunk)


def _print(chunk: bytes) -> None:
    """Writes to stdout. Raises SystemExit (as SIGPIPE does) if nobody reads it; otherwise SandboxError."""
    try:
        write(_STDOUT, chunk)
    except BrokenPipeError as error:
        raise SystemExit(PIPE_GONE) from error
    except OSError as error:
        raise _write_error(error) from error


@contextmanager
def _raw_mode(descriptor: int) -> Iterator[None]:
    """Sets a terminal to raw mode for the block; does nothing if the descriptor is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # the terminal has hung up
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _follow_size(master: int) -> Iterator[None]:
    """Gives a terminal the size of this process's terminal, now and whenever that changes."""

    def copy(number: int = 0, frame: FrameType | None = None) -> None:
        for descriptor in (_STDOUT, _STDIN, _STDERR):
            if os.isatty(descriptor):
                termios.tcsetwinsize(master, termios.tcgetwinsize(descriptor))
                return

    before = signal.signal(signal.SIGWINCH, copy)
    try:
        copy()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
