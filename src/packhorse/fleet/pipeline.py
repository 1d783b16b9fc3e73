"""Works on many items at a time and yields the results in order. Called by `copy` and `rebase_many`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from packhorse.base.threads import ThreadPool
from packhorse.errors import PackhorseError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    workers: ThreadPool, work: Callable[[Item], Result], items: Iterable[Item], *, most: int
) -> Iterator[Result]:
    """Yields the result of `work` for each item, in order; at most `most` items are read ahead.

    If reading `items` raises a PackhorseError, the results of the items before come first.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(workers.submit(work, item))
            while waiting and (waiting[0].done() or len(waiting) > most):
                yield waiting.popleft().result()
    except PackhorseError:
        while waiting:
            yield waiting.popleft().result()
        raise
    while waiting:
        yield waiting.popleft().result()
