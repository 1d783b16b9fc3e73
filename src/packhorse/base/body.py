"""Chunks that one thread reads ahead of the one that takes them; for `image.daemon` and `store.shelf`."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue

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
