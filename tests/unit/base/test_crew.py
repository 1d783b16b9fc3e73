"""Threads that stop with their caller."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from packhorse.base.threads import ReadingStopped, thread_pool


def test_answers_come_in_the_order_of_the_questions() -> None:
    with thread_pool(3, "test", timeout=1) as workers:
        assert workers.map(lambda number: number * 2, range(50)) == list(range(0, 100, 2))


def test_the_first_error_is_the_callers() -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"), thread_pool(2, "test", timeout=1) as workers:
        workers.map(work, range(10))


def test_no_more_work_at_once_than_there_are_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002)
        with lock:
            running -= 1

    with thread_pool(3, "test", timeout=1) as workers:
        workers.map(work, range(40))
    assert most <= 3


def test_what_reads_chunks_stops_when_the_caller_does() -> None:
    begun, stopped = threading.Event(), threading.Event()

    def endless() -> Iterator[bytes]:
        for _ in itertools.count():
            begun.set()
            yield b"x"

    with pytest.raises(KeyboardInterrupt), thread_pool(1, "test", timeout=10) as workers:

        def work(_: int) -> None:
            try:
                for _chunk in workers.cancellable(endless()):
                    pass
            except ReadingStopped:
                stopped.set()

        workers.submit(work, 0)
        later = workers.submit(work, 0)
        begun.wait(60)
        raise KeyboardInterrupt
    assert stopped.is_set()
    assert not later.done()


WAITS_FOR_EVER = """
import threading
from packhorse.base.threads import thread_pool
with thread_pool(2, "test", timeout=0.1) as workers:
    workers.submit(lambda _: threading.Event().wait(), 0)
    raise SystemExit(7)
"""


@pytest.mark.system
def test_one_that_waits_for_ever_holds_up_neither_the_caller_nor_the_end_of_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", WAITS_FOR_EVER], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize("begun", [True, False])
def test_a_thread_whose_start_is_interrupted_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if begun:
            start(thread)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), thread_pool(2, "interrupted", timeout=5) as workers:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        workers.submit(str, 1)
    assert [thread for thread in threading.enumerate() if thread.name == "interrupted"] == []
