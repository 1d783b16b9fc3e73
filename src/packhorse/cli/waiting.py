"""Prints which task is running and how far it is, if a command has printed nothing for two seconds.

On a terminal it redraws one line; elsewhere it prints a line at growing intervals.
"""

from __future__ import annotations

import time
from _thread import allocate_lock, start_new_thread  # importing threading takes longer

from packhorse.base.progress import Meter, Task
from packhorse.cli.output import Console, format_size

_SILENCE = 2.0
"""Seconds without a line after which one is printed."""

_LOOK = 0.2
_GROWTH = 1.5
_LONGEST_PAUSE = 60.0


def watch(console: Console) -> None:
    """Gives a console a meter, and prints the meter's tasks on the console when they take long."""
    console.meter = _Watch(console).meter


class _Watch:
    """Watches the tasks of a meter in a thread, which ends when there are none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running = False
        self._lock = allocate_lock()
        self.meter = Meter(self._begin)

    def _begin(self) -> None:
        with self._lock:
            if self._running:
                return
            self._running = True
        try:
            start_new_thread(self._watch, ())
        except RuntimeError:  # this user may have no more threads; the work goes on without these lines
            self._running = False

    def _is_over(self) -> bool:
        """Returns whether no task is running; if so, the next task starts a new thread."""
        with self._lock:
            self._running = bool(self.meter.tasks)
            return not self._running

    def _watch(self) -> None:
        pause, last = _SILENCE, ""
        while True:
            time.sleep(_LOOK)
            if self._is_over():
                return
            # The innermost task is the most exact. It may have ended just now.
            task = next(reversed(self.meter.tasks[:]), None)
            text = describe_task(task) if task else last
            if text != last and self._console.wait(text, silence=pause):
                last = text
                if not self._console.is_live:
                    pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def describe_task(task: Task) -> str:
    """Formats a task: its name, how far it is, and how long it has been running."""
    parts = [f"{time.monotonic() - task.began:.0f} s"]
    if task.unit == "B":
        parts.insert(
            0,
            f"{format_size(task.done)} of {format_size(task.total)}"
            if task.total
            else format_size(task.done),
        )
    elif task.unit:
        parts.insert(0, f"{task.done} of {task.total} {task.unit}")
    return f"{task.name}: {', '.join(parts)}"
