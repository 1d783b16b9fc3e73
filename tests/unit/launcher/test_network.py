"""The program that keeps loopback addresses inside a network: it never says that it has when it has not."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from unit.launcher.conftest import SOURCE

pytestmark = pytest.mark.system

Build = Callable[[Path, Path, str], dict[str, Path]]


@pytest.fixture(scope="session")
def program(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    built = build(SOURCE, tmp_path_factory.mktemp("network"), "network")
    return built[{"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]]


@pytest.fixture
def other() -> Iterator[int]:
    """A process with a user and a network namespace of its own, without any device but lo."""
    words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; read line"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"\n"
        yield process.pid


def run(program: Path, pid: int | str, said: bytes) -> tuple[int, bytes, str]:
    """Its status, what it writes to DONE, and its complaint; `said` is what comes through READY."""
    with ExitStack() as stack:
        names = [f"/proc/{pid}/ns/{kind}" for kind in ("user", "net")]
        namespaces = [os.open(name, os.O_RDONLY) for name in names]
        ready, tell = os.pipe()
        told, done = os.pipe()
        for descriptor in (*namespaces, ready, told):
            stack.callback(os.close, descriptor)
        os.write(tell, said)
        os.close(tell)
        words = (*namespaces, ready, done)
        completed = subprocess.run(
            [program, *map(str, words)], pass_fds=words, stderr=subprocess.PIPE, text=True
        )
        os.close(done)
        return completed.returncode, os.read(told, 10), completed.stderr


def test_it_says_so_when_the_devices_were_there(program: Path, other: int) -> None:
    assert run(program, other, b"123\n") == (0, b"\n", "")


def test_it_says_nothing_when_there_was_no_network(program: Path, other: int) -> None:
    assert run(program, other, b"12") == (1, b"", "")


def test_it_says_nothing_when_it_cannot_enter_the_network(program: Path) -> None:
    status, done, complaint = run(program, "self", b"123\n")
    assert (status, done) == (1, b"")
    assert complaint == "the network of a step cannot be entered: Invalid argument\n"
