"""What outlives a command is not ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from packhorse.linux.processes import start

pytestmark = pytest.mark.system

STARTING = """
import os, signal
from packhorse.linux import processes

signal.signal(signal.SIGTERM, lambda *_: None)
ending = os.fork()
if not ending:  # no thread: that would wait while this process starts another
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while os.getppid() != 1:
        os.killpg(0, signal.SIGTERM)
    os._exit(0)
try:
    print([processes.start(["true"]).wait() for _ in range(100)])
finally:
    os.kill(ending, signal.SIGKILL)
"""


def test_who_ends_the_group_of_who_starts_it_does_not_end_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTING],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        process_group=0,
        timeout=120,
    )
    assert done.stdout.decode() == f"{[0] * 100}\n", done.stderr


BEGINNING = """
import os, signal, sys, time
sys.path[:] = sys.argv[1].split(":")
from packhorse.linux import processes
for number in (signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)  # as if it had come while this was of its parent's group
processes.accept_signals()
os.write(int(sys.argv[2]), b"begun")
time.sleep(300)
"""


def test_it_forgets_what_was_for_the_group_and_heeds_what_is_for_it() -> None:
    told, tell = os.pipe()
    words = [sys.executable, "-c", BEGINNING, ":".join(sys.path), str(tell)]
    process = start(words, pass_fds=[tell])
    os.close(tell)
    with open(told, "rb") as begun:
        assert begun.read(5) == b"begun"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == -signal.SIGTERM
