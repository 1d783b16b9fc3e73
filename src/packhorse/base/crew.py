"""Threads that work for one caller and stop when it does; under every arrow.

Unlike a pool's of the standard library they do not hold up a caller that is called off (Ctrl-C), nor the end
of the process: one may be waiting for a registry that has fallen silent. Called by `image`, `layers`,
`store` and `platform`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Generic, Self, TypeVar

_AHEAD = 4
"""Items that may wait for a follower."""

_PATIENCE = 5.0
"""Seconds that a follower's work is waited for when nobody wants it any more."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class Stopped(Exception):
    """The caller does not want the answer any more; seen by nobody but the thread."""


class Crew:
    """At most `size` threads, started when they are needed; made by `crew`."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = threading.Event()

    def submit(self, work: Callable[[_Item], _Answer], item: _Item) -> Future[_Answer]:
        """Has a thread do some work; its future has the answer, or raises what the work has raised."""
        future: Future[_Answer] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = work(item)
            except BaseException as error:  # noqa: BLE001 -- for who asks the future
                future.set_exception(error)
            else:
                future.set_result(answer)

        self._tasks.put(task)
        if len(self._threads) < self._size:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def map(self, work: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
        """The answers in the order of the items; raises the first error in that order."""
        return [future.result() for future in [self.submit(work, item) for item in items]]

    def heeded(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, for a thread of the crew to read: raises Stopped when it is to stop."""
        for chunk in chunks:
            if self._stopped.is_set():
                raise Stopped
            yield chunk

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def dismiss(self, *, patience: float | None = None) -> None:
        """Lets the threads go when all is done; with `patience` tells them to stop, and drops what waits."""
        end = None
        if patience is not None:
            self._stopped.set()
            end = time.monotonic() + patience
            with suppress(Empty):
                while True:
                    self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # one whose start was interrupted finds nothing to do
                thread.join(None if end is None else max(0.0, end - time.monotonic()))


class Follower(Generic[_Item]):
    """One thread that does some work with each item that it is handed, in their order, a few behind.

    A context, which lets the thread go: what it has not begun then nobody wants any more.
    """

    def __init__(self, work: Callable[[_Item], None], name: str) -> None:
        self._work = work
        self._crew = Crew(1, name)
        self._behind: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()

    def hand(self, item: _Item) -> None:
        """Hands an item on, when few enough wait; raises what the work with an earlier one has raised."""
        if len(self._behind) == _AHEAD:
            self._behind.popleft().result()
        self._behind.append(self._crew.submit(self._work, item))

    def wait(self) -> None:
        """Returns when all is done; raises as `hand` does."""
        while self._behind:
            self._behind.popleft().result()

    def dismiss(self) -> None:
        """Lets the thread go; what it is at is waited for, but not for long."""
        self._crew.dismiss(patience=_PATIENCE)


@contextmanager
def crew(size: int, name: str, *, patience: float) -> Iterator[Crew]:
    """A crew for a block; when that ends early, nothing more is begun, and what runs is told to stop.

    It is waited for `patience` seconds then: one thread may have something to clean up, and another wait for
    what never comes.
    """
    workers = Crew(size, name)
    try:
        yield workers
    except BaseException:
        workers.dismiss(patience=patience)
        raise
    workers.dismiss()
