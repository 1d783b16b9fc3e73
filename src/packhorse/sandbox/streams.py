"""A step's stdin, stdout and stderr exchanged with this process's own, by pipes; called by `running`.

Were the step given these themselves, it could open them anew through /proc, as files of the user whose id it
has (*tried*): read what is typed into the user's terminal, write the file that it is to read, shorten the one
that it adds to.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from io import FileIO

from packhorse.errors import SandboxError
from packhorse.sandbox import relay
from packhorse.sandbox.process import Pipes

_STDIN, _STDOUT, _STDERR = 0, 1, 2


class _Input:
    """What was read for the step and not taken by it; ends with stdin, or when the step closes its own."""

    def __init__(self, pipe: FileIO) -> None:
        self._pipe = pipe
        self._pending = b""
        os.set_blocking(pipe.fileno(), False)

    def wanted(self) -> dict[int, int]:
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
            self._pending = relay.read(_STDIN)
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
        ready = relay.poll(
            (given.wanted() | {ended: select.POLLIN} if running else {})
            | dict.fromkeys(printed, select.POLLIN)
        )
        if running:
            given.relay(ready)
        if ended in ready:
            finish()
            running = False
        for number in printed.keys() & ready.keys():
            pipe, target = printed[number]
            chunk = os.read(number, relay.CHUNK)
            if not chunk or not _write_all(target, chunk):
                pipe.close()
                del printed[number]


def _write_all(target: int, chunk: bytes) -> bool:
    """Writes it all; False when nobody reads any more."""
    try:
        relay.write(target, chunk)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise SandboxError("what the step prints cannot be written", why=error.strerror or "") from error
    return True
