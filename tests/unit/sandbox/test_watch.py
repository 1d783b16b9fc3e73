"""A step is ended for what it uses of the machine itself, or when that cannot be seen any more."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from packhorse.base.sandbox import Limits
from packhorse.sandbox.cgroup import Events, Group
from packhorse.sandbox.limits import Watch, describe_shortage


def test_a_step_ends_when_its_group_cannot_be_read(tmp_path: Path) -> None:
    killed, readable = threading.Event(), threading.Event()

    def events() -> Events:
        if not readable.is_set():
            raise OSError("gone")
        return Events()

    group = cast("Group", SimpleNamespace(events=events))
    watch = Watch(Limits(processes=10, expendable=True), os.getpid(), [tmp_path], group, killed.set)
    watch.start()
    try:
        assert killed.wait(30)
    finally:
        readable.set()
        watch.stop()
    assert watch.verdict() == "packhorse could no longer see what it uses of this machine"


def test_a_command_is_not_ended_for_what_one_before_it_has_met(tmp_path: Path) -> None:
    looked = threading.Semaphore(0)

    def events() -> Events:
        looked.release()
        return Events(refused=3, killed=1)

    group = cast("Group", SimpleNamespace(events=events, memory=lambda: 0))
    killed = threading.Event()
    watch = Watch(Limits(processes=10, memory=1, expendable=True), os.getpid(), [tmp_path], group, killed.set)
    watch.start()
    for _ in range(4):
        assert looked.acquire(timeout=60)
    watch.stop()
    assert (watch.verdict(), killed.is_set()) == ("", False)


def test_a_command_too_short_to_be_watched_still_has_its_verdict(tmp_path: Path) -> None:
    found = iter([Events(refused=3), Events(refused=4)])
    group = cast("Group", SimpleNamespace(events=lambda: next(found)))
    watch = Watch(Limits(processes=10, expendable=True), os.getpid(), [tmp_path], group, lambda: None)
    watch.stop()
    assert not watch.is_started
    assert "the limit of 10 processes" in watch.verdict()


@pytest.mark.parametrize(
    ("left", "used", "said"),
    [
        (2 << 30, 20 << 30, ""),
        (100 << 20, 1 << 30, ""),  # others have the rest
        (100 << 20, 9 << 30, "it used 9 GiB of 32 GiB"),
    ],
)
def test_a_step_is_not_blamed_for_memory_that_others_use(left: int, used: int, said: str) -> None:
    told = describe_shortage(left, 32 << 30, lambda: used)
    assert told.endswith(said) and bool(told) == bool(said)


def test_nobody_asks_what_a_step_uses_while_there_is_enough_for_all() -> None:
    def used() -> int:
        raise AssertionError("among thousands of processes this takes seconds")

    assert describe_shortage(4 << 30, 32 << 30, used) == ""


def test_a_watch_whose_start_was_interrupted_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    watch = Watch(
        Limits(memory=1 << 50, disk=1, expendable=True), os.getpid(), [tmp_path], None, lambda: None
    )
    with pytest.raises(KeyboardInterrupt):
        watch.start()
    watch.stop()
    assert [thread for thread in threading.enumerate() if thread.name == "limits"] == []
