"""How a command is called off: by signals and by the time that it is allowed; made by `main`.

Either becomes an exception in the main thread, so that every `with` on the way out is left properly.
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

from packhorse.base.calling import CalledOff, call_off
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
"""Seconds after which a lost exception is raised once more, and an unheard signal is insisted on."""

_NUDGE = signal.SIGURG
"""What a main thread is sent that has not heard of another signal; it asks for nothing itself."""

_LAST_WORDS = 2.0
"""Seconds in which somebody has to take what is printed when all is cleaned up."""


class Ending:
    """What the signals that ask this process to end do; `error` says why it is ending.

    The first becomes an exception. While the cleaning goes on a second would break it off, so it is only
    answered, and a third ends the process at once; what it leaves in the store is swept away by the next
    build. One that is ignored (nohup, a shell's background) stays so.
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
    def called_off(self) -> bool:
        """Whether the command was asked to end."""
        return self._count > 0

    def after(self, seconds: float, what: str) -> None:
        """Ends the command with TimedOut(`what`) when it is not done by then."""
        self._allowed = TimedOut(what)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def over(self, status: int) -> None:
        """All is cleaned up, and the exit code known: from now on a signal ends the process at once.

        One that was called off ends soon even if nobody reads why.
        """
        self._status = status
        if self._count:
            signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS)

    def _insist(self, told: int) -> None:
        """Has the main thread hear of every signal; a thread of its own.

        Python handles signals in its main thread, between two steps. One that comes just when that begins to
        wait for another thread, or for a pipe, is handled after the wait (*tried*: one of thirty on a busy
        machine), and what is waited for may never end.
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
            call_off()
        elif self._count == 2:
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
            call_off()
        elif self._lost:
            self._lost = False
            call_off()

    def _unraisable(self, lost: UnraisableHookArgs) -> None:
        """Takes note of an exception that python could not hand on, from a destructor for instance."""
        if isinstance(lost.exc_value, CalledOff):
            self._lost = True
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(lost)
