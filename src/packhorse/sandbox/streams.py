"""A step's stdin, stdout and stderr exchanged with this process's own, by pipes; called by `room`.

Were the step given these themselves, it could open them anew through /proc, as files of the user whose id it
has (*tried*): read what is typed into the user's terminal, write the file that it is to read, shorten the one
that it adds to.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from io import FileIO

from packhorse.errors import SandboxError
from packhorse.sandbox import relay
from packhorse.sandbox.process import Process

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_TAIL = 4096
"""How many of the last bytes of stderr are kept, to find the runtime's own message in."""


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

    def hand_on(self, ready: dict[int, int]) -> None:
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


def exchange(held: Process) -> bytes:
    """Hands on what goes in and out until all processes of the released step are gone; the end of its stderr.

    A reader of stdout or stderr that has gone is gone for the step too. Raises SandboxError when they cannot
    be written for another reason.
    """
    assert held.input is not None and held.errors is not None
    given = _Input(held.input)
    printed = {held.output.fileno(): (held.output, _STDOUT), held.errors.fileno(): (held.errors, _STDERR)}
    tail, running = b"", True
    while running or printed:
        ready = relay.poll(
            (given.wanted() | {held.ended: select.POLLIN} if running else {})
            | dict.fromkeys(printed, select.POLLIN)
        )
        if running:
            given.hand_on(ready)
        if held.ended in ready:
            held.kill()
            running = False
        for number in printed.keys() & ready.keys():
            pipe, target = printed[number]
            chunk = os.read(number, relay.CHUNK)
            if target == _STDERR:
                tail = (tail + chunk)[-_TAIL:]
            if not chunk or not _written(target, chunk):
                pipe.close()
                del printed[number]
    return tail


def _written(target: int, chunk: bytes) -> bool:
    """Writes it all; False when nobody reads any more."""
    try:
        relay.write(target, chunk)
    except BrokenPipeError:
        return False
    except OSError as error:
        raise SandboxError("what the step prints cannot be written", why=error.strerror or "") from error
    return True
