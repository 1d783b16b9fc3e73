"""Counts what long work has done, so that a person who waits can be told; under every arrow.

Work only counts. A `Meter` that nobody watches shows nothing; `cli.waiting` watches the one of a command.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Task:
    """One piece of work: `done` of `total` (0 where nobody knows how much it is), in `unit`, since `began`.

    `unit` is "B" for bytes, or a noun in the plural, or "" for what cannot be counted.
    """

    __slots__ = ("began", "done", "name", "total", "unit")

    def __init__(self, name: str, unit: str, total: int) -> None:
        self.name = name
        self.unit = unit
        self.total = total
        self.done = 0
        self.began = time.monotonic()

    def add(self, count: int) -> None:
        """Notes that so much more is done. Several threads may; what is lost between them is not missed."""
        self.done += count

    def count_bytes(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, whose bytes are counted as they pass."""
        for chunk in chunks:
            self.done += len(chunk)
            yield chunk


class Meter:
    """The tasks of one command that are going on; `watch` is called when one begins."""

    def __init__(self, watch: Callable[[], None] = lambda: None) -> None:
        self.tasks: list[Task] = []
        self._watch = watch

    @contextmanager
    def task(self, name: str, *, unit: str = "", total: int = 0) -> Iterator[Task]:
        """A task that goes on for a block."""
        task = Task(name, unit, total)
        self.tasks.append(task)
        self._watch()
        try:
            yield task
        finally:
            self.tasks.remove(task)


UNWATCHED = Meter()
"""For work that nobody waits for."""
