"""When a command that is called off may be broken off: anywhere, but not in an `undisturbed` block.

`cli.ending` raises `CalledOff` in the main thread at whatever it does. What makes something that has to be
taken away again, and notes it for that, does both undisturbed; such a block never waits for anything. Under
every arrow.
"""

from __future__ import annotations

from _thread import get_ident
from types import TracebackType


class CalledOff(BaseException):
    """The command is to end. No error, so that nothing on the way takes it for one that it can explain."""


class _Undisturbed:
    """The blocks of the main thread, of which one may be in another; other threads are never disturbed."""

    def __init__(self) -> None:
        self.depth = 0
        self.owed = False
        self._main = get_ident()

    def __enter__(self) -> None:
        if get_ident() == self._main:
            self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if get_ident() == self._main:
            self.depth -= 1
            if self.owed and not self.depth:
                self.owed = False
                raise CalledOff


_blocks = _Undisturbed()


def undisturbed() -> _Undisturbed:
    """A block that `call_off` lets come to its end before it raises."""
    return _blocks


def call_off() -> None:
    """Raises CalledOff, now or at the end of the block that is undisturbed; called in the main thread."""
    if _blocks.depth:
        _blocks.owed = True
    else:
        raise CalledOff
