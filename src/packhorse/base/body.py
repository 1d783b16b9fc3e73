"""Bodies of requests and answers as the docker library takes them: of a known length, and of a bounded one.

Called by `base.engine`; `ahead` by who makes a body.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from queue import Full, Queue
from typing import Any

_GLANCE = 0.1  # seconds between two looks whether anybody still wants what is read ahead


class Sized:
    """Chunks that say how many bytes they are in all: the library sends them as they are, not framed."""

    def __init__(self, chunks: Iterable[bytes], length: int) -> None:
        self._chunks = chunks
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __len__(self) -> int:
        return self._length


class Bounded:
    """What comes of an answer, for the library to read; more than `most` bytes of it raise `error`."""

    def __init__(self, raw: Any, most: int, error: Exception) -> None:
        self._raw = raw
        self._left = most
        self._error = error

    def stream(self, *how: object, **more: object) -> Iterator[bytes]:
        """The chunks of an answer that is read whole."""
        return map(self._counted, self._raw.stream(*how, **more))

    def read(self, *how: object, **more: object) -> bytes:
        """The next bytes of one that is read as it comes."""
        return self._counted(self._raw.read(*how, **more))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise self._error
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def ahead(chunks: Iterable[bytes], *, name: str, most: int = 8) -> Generator[bytes]:
    """The same chunks, read by a thread of its own that is up to `most` of them ahead.

    What reading them raises is raised in their place. Who takes no more of them ends the thread.
    """
    waiting: Queue[bytes | BaseException | None] = Queue(most)
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
