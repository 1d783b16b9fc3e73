"""Threads that work for one caller and stop when it does; under every arrow.

Unlike a pool's of the standard library they do not hold up a caller that is called off (Ctrl-C), nor the end
of the process: one may be waiting for a registry that has fallen silent. Called by `image`, `layers`,
`store` and `platform`.

Chunks that one thread reads ahead of the one that takes them; for `oci.engine` and `store.layers`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue, SimpleQueue
from typing import Generic, Self, TypeVar

_PENDING_LIMIT = 4
"""Items that may wait for a follower."""

_TIMEOUT = 5.0
"""Seconds that a follower's work is waited for when nobody wants it any more."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class ReadingStopped(Exception):
    """The caller does not want the answer any more; seen by nobody but the thread."""


class ThreadPool:
    """At most `size` threads, started when they are needed; made by `thread_pool`."""

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
            thread = threading.Thread(target=self._run_tasks, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def map(self, work: Callable[[_Item], _Answer], items: Iterable[_Item]) -> list[_Answer]:
        """The answers in the order of the items; raises the first error in that order."""
        return [future.result() for future in [self.submit(work, item) for item in items]]

    def cancellable(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, for a thread of the crew to read: raises Stopped when it is to stop."""
        for chunk in chunks:
            if self._stopped.is_set():
                raise ReadingStopped
            yield chunk

    def _run_tasks(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def shut_down(self, *, timeout: float | None = None) -> None:
        """Lets the threads go when all is done; with `timeout` tells them to stop, and drops what waits."""
        end = None
        if timeout is not None:
            self._stopped.set()
            end = time.monotonic() + timeout
            with suppress(Empty):
                while True:
                    self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            with suppress(RuntimeError):  # one whose start was interrupted finds nothing to do
                thread.join(None if end is None else max(0.0, end - time.monotonic()))


class Pipeline(Generic[_Item]):
    """One thread that does some work with each item that it is handed, in their order, a few behind.

    A context, which lets the thread go: what it has not begun then nobody wants any more.
    """

    def __init__(self, work: Callable[[_Item], None], name: str) -> None:
        self._work = work
        self._pool = ThreadPool(1, name)
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()

    def submit(self, item: _Item) -> None:
        """Hands an item on, when few enough wait; raises what the work with an earlier one has raised."""
        if len(self._pending) == _PENDING_LIMIT:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._work, item))

    def wait(self) -> None:
        """Returns when all is done; raises as `submit` does."""
        while self._pending:
            self._pending.popleft().result()

    def shut_down(self) -> None:
        """Lets the thread go; what it is at is waited for, but not for long."""
        self._pool.shut_down(timeout=_TIMEOUT)


@contextmanager
def thread_pool(size: int, name: str, *, timeout: float) -> Iterator[ThreadPool]:
    """A crew for a block; when that ends early, nothing more is begun, and what runs is told to stop.

    It is waited for `timeout` seconds then: one thread may have something to clean up, and another wait for
    what never comes.
    """
    workers = ThreadPool(size, name)
    try:
        yield workers
    except BaseException:
        workers.shut_down(timeout=timeout)
        raise
    workers.shut_down()


_GLANCE = 0.1  # seconds between two looks whether anybody still wants what is read ahead


def prefetch(chunks: Iterable[bytes], *, name: str, limit: int = 8) -> Generator[bytes]:
    """The same chunks, read by a thread of its own that is up to `limit` of them ahead.

    What reading them raises is raised in their place. Who takes no more of them ends the thread.
    """
    waiting: Queue[bytes | BaseException | None] = Queue(limit)
    over = threading.Event()

    def give(item: bytes | BaseException | None) -> bool:
        while not over.is_set():
            try:
                waiting.put(item, timeout=_GLANCE)
            except Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            if all(map(give, chunks)):
                give(None)
        except BaseException as error:  # noqa: BLE001 -- for who takes the chunks
            give(error)

    threading.Thread(target=read, name=name, daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
