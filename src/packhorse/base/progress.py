"""Counts the progress of long work, so that the command line can show it to the user.

The work itself only counts. `cli.waiting` watches the `Meter` of a command; any other meter shows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Task:
    """One piece of work: `done` of `total` units, since `began`. `total` is 0 if it is unknown.

    `unit` is "B" for bytes, a plural noun, or "" for work that has no countable parts.
    """

    __slots__ = ("began", "done", "name", "total", "unit")

    def __init__(self, name: str, unit: str, total: int) -> None:
        self.name = name
        self.unit = unit
        self.total = total
        self.done = 0
        self.began = time.monotonic()

    def add(self, count: int) -> None:
        """Adds to `done`. Threads may race here: a lost update only makes the display less exact."""
        self.done += count

    def count_bytes(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the same chunks and counts their bytes."""
        for chunk in chunks:
            self.done += len(chunk)
            yield chunk


class Meter:
    """Holds the running tasks of one command. It calls `watch` when a task begins."""

    def __init__(self, watch: Callable[[], None] = lambda: None) -> None:
        self.tasks: list[Task] = []
        self._watch = watch

    @contextmanager
    def task(self, name: str, *, unit: str = "", total: int = 0) -> Iterator[Task]:
        """Runs a block as one task."""
        task = Task(name, unit, total)
        self.tasks.append(task)
        self._watch()
        try:
            yield task
        finally:
            self.tasks.remove(task)


UNWATCHED = Meter()
"""A meter that shows nothing."""
