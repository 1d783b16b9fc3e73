"""Runs threads that work for one caller and stop when it stops.

The standard library's pool waits for its threads, which delays Ctrl-C and the end of the process: one may
be waiting for a registry that is silent. These threads are daemons, and the caller waits for them only
as long as its timeout says.
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
"""How many items of a `Pipeline` may wait."""

_TIMEOUT = 5.0
"""Seconds to wait for a `Pipeline` that is shut down."""

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class ReadingStopped(Exception):
    """Ends the work of a thread whose pool was stopped. Only that thread sees it."""


class ThreadPool:
    """At most `size` threads, started when needed. Use `thread_pool` to make one."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopped = threading.Event()

    def submit(self, work: Callable[[_Item], _Answer], item: _Item) -> Future[_Answer]:
        """Runs `work(item)` in a thread. The future has the result or the exception."""
        future: Future[_Answer] = Future()

        def task() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                answer = work(item)
            except BaseException as error:  # noqa: BLE001 -- the future raises it
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
        """Returns the results in the order of the items; raises the first error in that order."""
        return [future.result() for future in [self.submit(work, item) for item in items]]

    def cancellable(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the same chunks in a thread of the pool; raises ReadingStopped if the pool was stopped."""
        for chunk in chunks:
            if self._stopped.is_set():
                raise ReadingStopped
            yield chunk

    def _run_tasks(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def shut_down(self, *, timeout: float | None = None) -> None:
        """Ends the threads after all work. With `timeout` (seconds) it drops waiting work and stops them."""
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
            with suppress(RuntimeError):  # an interrupt came before the thread started
                thread.join(None if end is None else max(0.0, end - time.monotonic()))


class Pipeline(Generic[_Item]):
    """Passes items to one thread in their order, so that the caller can go on meanwhile.

    Leaving the context drops the items that the thread has not begun.
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
        """Queues an item, after waiting for room in the queue; raises the error of an earlier item."""
        if len(self._pending) == _PENDING_LIMIT:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._work, item))

    def wait(self) -> None:
        """Waits for all items; raises as `submit` does."""
        while self._pending:
            self._pending.popleft().result()

    def shut_down(self) -> None:
        """Stops the thread, and waits a few seconds for the item in work."""
        self._pool.shut_down(timeout=_TIMEOUT)


@contextmanager
def thread_pool(size: int, name: str, *, timeout: float) -> Iterator[ThreadPool]:
    """Makes a pool for a block. If the block raises, the pool starts no more work and stops its threads.

    It then waits at most `timeout` seconds, because one thread may have to clean up while another may wait
    for data that never comes.
    """
    workers = ThreadPool(size, name)
    try:
        yield workers
    except BaseException:
        workers.shut_down(timeout=timeout)
        raise
    workers.shut_down()


_POLL_INTERVAL = 0.1  # seconds between two checks whether the consumer still reads


def prefetch(chunks: Iterable[bytes], *, name: str, limit: int = 8) -> Generator[bytes]:
    """Yields the same chunks, which a thread of their own reads up to `limit` chunks ahead.

    It raises the errors of the reading at their place. Closing the generator ends the thread.
    """
    waiting: Queue[bytes | BaseException | None] = Queue(limit)
    over = threading.Event()

    def give(item: bytes | BaseException | None) -> bool:
        while not over.is_set():
            try:
                waiting.put(item, timeout=_POLL_INTERVAL)
            except Full:
                continue
            return True
        return False

    def read() -> None:
        try:
            if all(map(give, chunks)):
                give(None)
        except BaseException as error:  # noqa: BLE001 -- the consumer raises it
            give(error)

    threading.Thread(target=read, name=name, daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        over.set()
