"""What is on a leash ends with whoever holds it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from fakes import linux
from packhorse.sandbox.process import ParentDeathGuard

pytestmark = pytest.mark.system


def group(script: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["sh", "-c", script], process_group=0, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    return process


def test_a_group_ends_however_much_of_it_is_left() -> None:
    process = group("echo ready; sleep 300 | sleep 300")
    below = linux.descendants(process.pid)
    leash = ParentDeathGuard.for_group(process.pid)
    leash.close()
    assert process.wait(60) == -signal.SIGINT
    assert linux.gone(below)


HOLDER = """
import subprocess, sys
from packhorse.sandbox.process import ParentDeathGuard
process = subprocess.Popen(["sleep", "300"], process_group=0)
leash = ParentDeathGuard.for_group(process.pid)
print(process.pid, flush=True)
sys.stdin.read()
"""


def test_a_group_ends_with_a_holder_that_is_killed() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    assert holder.stdout is not None
    pid = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    assert linux.gone({pid})


def test_ctrl_c_is_not_for_what_is_on_a_leash() -> None:
    before = linux.descendants(os.getpid())
    leash = ParentDeathGuard(["run", "sleep", "300"])
    assert select.select([leash._end], [], [], 60)[0], "it has handed over what ends the program"
    children = linux.descendants(os.getpid()) - before
    assert os.getpgrp() not in {os.getpgid(child) for child in children}
    leash.close()
    assert linux.gone(children)


def test_what_a_leash_has_run_ends_though_the_leash_was_killed_itself() -> None:
    before = linux.descendants(os.getpid())
    leash = ParentDeathGuard(["run", "sleep", "300"])
    assert select.select([leash._end], [], [], 60)[0], "it has handed over what ends the program"
    children = linux.descendants(os.getpid()) - before
    (leash_pid,) = (pid for pid in children if linux.processes().get(pid) == os.getpid())
    os.kill(leash_pid, signal.SIGKILL)
    (orphan,) = children - {leash_pid}
    leash.close()
    assert linux.gone({orphan})
