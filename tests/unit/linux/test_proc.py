"""What is told of processes, whatever they are called."""

from __future__ import annotations

import subprocess
import sys

import pytest

from packhorse.linux.processes import process_start_id

pytestmark = pytest.mark.system

RENAMED = """
import sys
input()
with open("/proc/self/comm", "wb") as comm:
    comm.write(bytes.fromhex(sys.argv[1]))
print("renamed", flush=True)
input()
"""


@pytest.mark.parametrize("name", [b"\xff", b"two words", b") S 1 (", b"line\nline"])
def test_a_process_is_the_same_one_whatever_it_calls_itself(name: bytes) -> None:
    words = [sys.executable, "-c", RENAMED, name.hex()]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        before = process_start_id(str(child.pid))
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"renamed\n"
        assert process_start_id(str(child.pid)) == before
        assert before.startswith(f"{child.pid}-")
        child.stdin.close()
    assert process_start_id(str(child.pid)) == ""
