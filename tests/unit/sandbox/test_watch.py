"""A step whose use of the machine cannot be seen is not let go on without limits."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from packhorse.base.step import Limits
from packhorse.sandbox.cgroup import Events, Group
from packhorse.sandbox.watch import Watch


def test_a_step_ends_when_its_group_cannot_be_read(tmp_path: Path) -> None:
    killed, readable = threading.Event(), threading.Event()

    def events() -> Events:
        if not readable.is_set():
            raise OSError("gone")
        return Events()

    group = cast("Group", SimpleNamespace(controllers=frozenset({"pids", "memory"}), events=events))
    watch = Watch(Limits(processes=10, expendable=True), os.getpid(), [tmp_path], group, killed.set)
    try:
        assert killed.wait(30)
    finally:
        readable.set()
        watch.stop()
    assert watch.verdict() == "what it uses of this machine could not be seen any more"
