"""Bodies that are read ahead of who sends them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from packhorse.base.threads import prefetch


def test_what_is_read_ahead_is_the_same_and_not_far_ahead() -> None:
    read = 0

    def chunks() -> Iterator[bytes]:
        nonlocal read
        for read in range(1, 101):
            yield b"%d" % read

    for taken, chunk in enumerate(prefetch(chunks(), name="test", limit=3), 1):
        assert chunk == b"%d" % taken
        assert read <= taken + 5  # three wait, one is taken, one is in the thread's hand
    assert read == 100


def test_an_error_of_what_is_read_ahead_comes_in_its_place() -> None:
    def broken() -> Iterator[bytes]:
        yield b"whole"
        raise ValueError("broken")

    chunks = prefetch(broken(), name="test")
    assert next(chunks) == b"whole"
    with pytest.raises(ValueError, match="broken"):
        next(chunks)


def test_nothing_is_read_ahead_for_who_has_gone() -> None:
    closed = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    chunks = prefetch(endless(), name="gone", limit=2)
    next(chunks)
    chunks.close()
    assert closed.wait(60)
