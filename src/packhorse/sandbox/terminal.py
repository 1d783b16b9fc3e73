"""Copies a command's stdin, stdout and stderr by pipes, or gives it a terminal of its own.

A command never gets this process's own descriptors. It could open them again through /proc, as files of the
user whose id it has (*tried*): read what is typed into the terminal, write the file that it should only read,
or truncate the one that it appends to.

In the user's own terminal, the command would be in a session that its PID namespace does not see: shells fail
at job control (*tried*), and Ctrl-C would reach whatever else runs there. So the command begins as the
program `launcher/terminal`, which is executed by its descriptor and is therefore not found inside. It makes a
pseudo terminal in the sandbox, hands out its ends, and becomes the command, as leader of a session with that
terminal.
"""

from __future__ import annotations

import errno
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


def poll(wanted: Mapping[int, int]) -> dict[int, int]:
    """Waits until a descriptor is ready for one of its events; the descriptors that are, with theirs."""
    waiting = select.poll()
    for descriptor, events in wanted.items():
        waiting.register(descriptor, events)
    return dict(waiting.poll())


def read(descriptor: int) -> bytes:
    """What there is, empty at the end; a terminal that is hung up, or another's, answers EIO then."""
    try:
        return os.read(descriptor, CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def write(target: int, chunk: bytes) -> None:
    """Writes it all. What a terminal does not take that is gone is lost: SIGHUP tells of that. OSError."""
    while chunk:
        try:
            chunk = chunk[os.write(target, chunk) :]
        except BlockingIOError:  # another program has left the user's terminal so
            poll({target: select.POLLOUT})
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return


_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _Input:
    """What was read for the step and not taken by it; ends with stdin, or when the step closes its own."""

    def __init__(self, pipe: FileIO) -> None:
        self._pipe = pipe
        self._pending = b""
        os.set_blocking(pipe.fileno(), False)

    def poll_events(self) -> dict[int, int]:
        """What to wait for. No more is read while the step does not take what there is."""
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
    """Hands on what goes in and out until all processes of the command are gone.

    `ended` is readable as soon as the command has ended, and `finish` returns when all are gone. A reader of
    stdout or stderr that has gone is gone for the command too. Raises SandboxError when they cannot be
    written for another reason.
    """
    assert pipes.input is not None and pipes.errors is not None
    given = _Input(pipes.input)
    printed = {pipes.output.fileno(): (pipes.output, _STDOUT), pipes.errors.fileno(): (pipes.errors, _STDERR)}
    running = True
    while running or printed:
        ready = poll(
            (given.poll_events() | {ended: select.POLLIN} if running else {})
            | dict.fromkeys(printed, select.POLLIN)
        )
        if running:
            given.relay(ready)
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
    """Writes it all; False when nobody reads any more."""
    try:
        write(target, chunk)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise SandboxError("what the step prints cannot be written", why=error.strerror or "") from error
    return True


_STDIN, _STDOUT, _STDERR = 0, 1, 2


class Terminal:
    """A pseudo terminal that is yet to be made, inside, by the native program `program`.

    `passed` are the descriptors that the step's process has to be started with.
    """

    def __init__(self, program: Path) -> None:
        self._own = ExitStack()
        self._channel, self._theirs = (self._own.enter_context(end) for end in socket.socketpair())
        descriptor = os.open(program, os.O_PATH | os.O_CLOEXEC)
        self._own.callback(os.close, descriptor)
        self.passed = (self._theirs.fileno(), descriptor)

    def words(self, command: Sequence[str], name: str) -> list[str]:
        """The words to execute inside, so that `command` has the terminal; its argv[0] will be `name`.

        There `passed` follow stdin, stdout and stderr.
        """
        return ["/proc/self/fd/4", "3", "4", command[0], name, *command[1:]]

    def run(self, name: str, ended: int, finish: Callable[[], None]) -> None:
        """Relays until all processes of the command `name` are gone, which was started with `words`.

        `ended` is readable as soon as it has ended, and `finish` returns when all are gone. This process's
        stdin, if it is a terminal, is raw meanwhile, so that every key reaches the command; the command's
        terminal has the size of this process's, and follows it. Only the main thread can call this, since
        SIGWINCH is handled.

        Raises CommandNotFound and NotExecutable when the kernel refused the command; SandboxError when there
        can be no terminal.
        """
        self._theirs.close()
        data, ends, _, _ = socket.recv_fds(self._channel, 1, 2, socket.MSG_CMSG_CLOEXEC)
        if not ends:
            why = os.strerror(data[0]) if data else "the program that makes it cannot be started"
            raise SandboxError("the step's terminal cannot be made", why=why, check="bubblewrap")
        # Somebody has to have the slave open as long as the command may: a master alone answers EIO.
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
        """Closes everything."""
        self._own.close()


def _relay(master: int, ended: int) -> None:
    """Hands on what is typed and what is printed until `ended` is readable.

    What was typed waits here while the step does not read it, and no more is read then; what the step prints
    still goes out. Else both could wait for each other.
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
            with suppress(BlockingIOError):  # the step may have flushed what was there
                chunk = read(master)
            _print(chunk)
        if ended in ready:
            return


def _drain(master: int) -> None:
    """Hands on what is printed until the last process that has the terminal open is gone."""
    os.set_blocking(master, True)
    while chunk := read(master):
        _print(chunk)


def _print(chunk: bytes) -> None:
    """Writes what the step prints. SystemExit as SIGPIPE's when nobody reads it any more; SandboxError."""
    try:
        write(_STDOUT, chunk)
    except BrokenPipeError as error:
        raise SystemExit(PIPE_GONE) from error
    except OSError as error:
        raise SandboxError("what the step prints cannot be written", why=error.strerror or "") from error


@contextmanager
def _raw_mode(descriptor: int) -> Iterator[None]:
    """Has a terminal hand on every byte as it is typed, and puts it back; leaves anything else as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # a terminal that was hung up is nobody's any more
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _follow_size(master: int) -> Iterator[None]:
    """Gives a terminal the size of this process's, now and whenever that changes."""

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
