"""Ends a command when a signal asks for it, or when its time limit is over. Made by `main`.

Both raise `Cancelled` in the main thread, so that every `with` block cleans up on the way out. The exception
can come between any two instructions, as Python's own KeyboardInterrupt does. So it can come after a lease
was taken and before its `with` block begins. Nothing guards against that: the process ends soon and its lease
with it, and the next build removes the rest (docs/decisions/0030).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from _thread import get_ident, start_new_thread  # importing threading takes longer
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from packhorse.errors import HungUp, Interrupted, PackhorseError, Quit, Terminated, TimedOut

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ERRORS: dict[int, PackhorseError] = {
    signal.SIGINT: Interrupted("interrupted"),
    signal.SIGTERM: Terminated("ended by SIGTERM"),
    signal.SIGHUP: HungUp("ended by SIGHUP", why="its terminal was closed, or another process sent SIGHUP"),
    signal.SIGQUIT: Quit("ended by SIGQUIT"),
}

_AGAIN = 0.01
"""Seconds after which a lost exception is raised again, and after which a signal is sent again."""

_NUDGE = signal.SIGURG
"""This signal only wakes the main thread, so that Python handles the other signals there."""

_LAST_WORDS = 2.0
"""Seconds that a cancelled command may take, after its clean-up, to print its error."""


class Cancelled(BaseException):
    """Ends the command. It is not an Exception, so that no `except Exception` on the way catches it."""


class Signals:
    """Handles the signals that ask this process to end; `error` says why it ends.

    The first signal cancels the command. While the command cleans up, the second prints a message, and the
    third ends the process at once. A signal that the caller ignored (nohup, a shell's background) stays
    ignored.
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
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(_NUDGE, self._hear)
        start_new_thread(self._insist, (reader,))
        signal.signal(signal.SIGALRM, self._time_is_over)
        for number in _ERRORS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    @property
    def is_cancelled(self) -> bool:
        """Whether the command was asked to end."""
        return self._count > 0

    def limit_time(self, seconds: float, what: str) -> None:
        """Ends the command with TimedOut(`what`) if it takes longer than `seconds`."""
        self._allowed = TimedOut(what)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def finish(self, status: int) -> None:
        """Records the exit code after the clean-up: from now on a signal ends the process at once with it.

        A cancelled command then ends soon, even if nobody reads its output.
        """
        self._status = status
        if self._count:
            signal.setitimer(signal.ITIMER_REAL, _LAST_WORDS)

    def _insist(self, reader: int) -> None:
        """Makes the main thread handle every signal. Runs in a thread of its own.

        Python handles signals in its main thread, between two instructions. If a signal comes just when that
        thread begins to wait for another thread or a pipe, Python handles it after the wait (one of thirty on
        a busy machine), and the wait may never end.
        """
        while numbers := os.read(reader, 64):
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
            with suppress(OSError):  # the terminal may be closed
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
        """Raises `Cancelled` again soon, if Python could not raise it, for instance in a destructor."""
        if isinstance(lost.exc_value, Cancelled):
            self._lost = True
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
        else:
            sys.__unraisablehook__(lost)
