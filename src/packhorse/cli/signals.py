"""How signals, and the time that a command is allowed, end it. Made by `main`.

Either raises `Cancelled` in the main thread, so that every `with` on the way out is left properly. It can
come between any two instructions, as Python's own KeyboardInterrupt does, and a lease may be lost then before
anything was to close it. Nothing guards against that: the process ends soon, its lease with it, and the next
build removes what that left (docs/decisions/0030).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import get_ident, start_new_thread  # all that is needed of threading, whose import takes time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from packhorse.errors import HungUp, Interrupted, PackhorseError, Quit, Terminated, TimedOut

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ERRORS: dict[int, PackhorseError] = {
    signal.SIGINT: Interrupted("interrupted"),
    signal.SIGTERM: Terminated("ended by SIGTERM"),
    signal.SIGHUP: HungUp("ended by SIGHUP", why="its terminal was closed, or somebody asked for it"),
    signal.SIGQUIT: Quit("ended by SIGQUIT"),
}

_AGAIN = 0.01
"""Seconds after which a lost exception is raised once more, and a signal is sent to the main thread again."""

_NUDGE = signal.SIGURG
"""What makes the main thread handle another signal; it asks for nothing itself."""

_LAST_WORDS = 2.0
"""Seconds in which somebody has to take what is printed when all is cleaned up."""


class Cancelled(BaseException):
    """The command is to end. It is no Exception, so nothing on the way takes it for an error to explain."""


class Signals:
    """Handles the signals that ask this process to end; `error` says why it is ending.

    The first one cancels the command. While it cleans up, a second one is only answered, and a third ends the
    process at once. A signal that is ignored (nohup, a shell's background) stays ignored.
    """

    def __init__(self) -> None:
        self.error: PackhorseError = Interrupted("interrupted")
        self._count = 0
        self._lost = False
        self._status: int | None = None
        self._allowed: TimedOut | None = None
        self._heard = True
        self._main = get_ident()
        sys.unraisablehook = self._unraisable
        told, tell = os.pipe()
        os.set_blocking(tell, False)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        signal.signal(_NUDGE, self._hear)
        start_new_thread(self._insist, (told,))
        signal.signal(signal.SIGALRM, self._time_is_over)
        for number in _ERRORS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    @property
    def is_cancelled(self) -> bool:
        """Whether the command was asked to end."""
        return self._count > 0

    def limit_time(self, seconds: float, what: str) -> None:
        """Ends the command with TimedOut(`what`) when it is not done by then."""
        self._allowed = TimedOut(what)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def finish(self, status: int) -> None:
        """Notes that all is cleaned up, and the exit code: from now on a signal ends the process at once.

        A command that was cancelled ends soon even if nobody reads why.
        """
        self._status = status
        if self._count:
            signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS)

    def _insist(self, told: int) -> None:
        """Makes the main thread handle every signal; a thread of its own.

        Python handles signals in its main thread, between two instructions. A signal that comes just when
        that thread begins to wait for another thread, or for a pipe, is handled after the wait (*tried*: one
        of thirty on a busy machine), and the wait may never end.
        """
        while numbers := os.read(told, 64):
            if set(numbers) == {_NUDGE}:
                continue
            self._heard = False
            while not self._heard:
                time.sleep(_AGAIN)
                signal.pthread_kill(self._main, _NUDGE)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._status is not None:
            os._exit(self._status)
        self._count += 1
        if self._count == 1:
            self.error = _ERRORS[number]
            raise Cancelled
        if self._count == 2:
            with suppress(OSError):  # a terminal that was closed
                os.write(2, b"cleaning up; once more ends packhorse at once\n")
        else:
            os._exit(self.error.exit_code)

    def _time_is_over(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
        if self._status is not None:
            os._exit(self._status)
        if self._count == 0 and self._allowed is not None:
            self._count = 1
            self.error = self._allowed
            raise Cancelled
        if self._lost:
            self._lost = False
            raise Cancelled

    def _unraisable(self, lost: UnraisableHookArgs) -> None:
        """Notes an exception that Python cannot raise, in a destructor for instance, to raise it again."""
        if isinstance(lost.exc_value, Cancelled):
            self._lost = True
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(lost)
