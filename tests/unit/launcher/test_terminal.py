"""The program that makes a step's terminal: what it sends, what it becomes, and how it fails."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unit.launcher.conftest import SOURCE

pytestmark = pytest.mark.system

PATIENCE = 60.0
Build = Callable[[Path, Path, str], dict[str, Path]]


@pytest.fixture(scope="session")
def program(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    built = build(SOURCE, tmp_path_factory.mktemp("terminal"), "terminal")
    return built[{"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]]


class Started:
    """The program, started by its descriptor alone as in a sandbox, and our end of its socket."""

    def __init__(self, program: Path, words: tuple[str, ...]) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        own = os.open(program, os.O_PATH)
        with theirs:
            self.process = subprocess.Popen(
                [f"/proc/self/fd/{own}", str(theirs.fileno()), str(own), *words],
                pass_fds=(theirs.fileno(), own),
                env={"PATH": "/bin:/usr/bin"},
                stdin=subprocess.DEVNULL,
            )
        os.close(own)

    def ends(self) -> tuple[int, int]:
        """The master and the slave of the terminal that it has made."""
        _, (master, slave), _, _ = socket.recv_fds(self.channel, 1, 2)
        return master, slave

    def goes(self) -> bytes:
        """Lets the command begin; returns what the program says of it."""
        self.channel.send(b"\0")
        return self.channel.recv(1)


@pytest.fixture
def start(program: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def start(*words: str) -> Started:
        started.append(Started(program, words))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.channel.close()


def read_until(master: int, end: bytes) -> bytes:
    seen = b""
    while not seen.endswith(end):
        assert select.select([master], [], [], PATIENCE)[0], seen
        seen += os.read(master, 4096)
    return seen


def test_the_command_leads_a_session_with_the_terminal(start: Callable[..., Started]) -> None:
    stat = "read -r _ _ _ _ group session _ front _ </proc/self/stat"
    started = start("sh", "sh", "-c", f"{stat}; echo $$ $group $session $front; echo . >/dev/tty")
    master, slave = started.ends()
    assert started.goes() == b""
    shell = started.process.pid
    assert read_until(master, b".\r\n").decode() == f"{shell} {shell} {shell} {shell}\r\n.\r\n"
    assert started.process.wait(PATIENCE) == 0
    os.close(slave)
    os.close(master)


def test_the_command_has_the_name_that_it_was_given(start: Callable[..., Started]) -> None:
    started = start("sh", "-a name", "-c", "tr '\\0' , </proc/$$/cmdline; echo .")
    master, _ = started.ends()
    assert started.goes() == b""
    assert read_until(master, b".\r\n").startswith(b"-a name,-c,tr ")


def test_the_command_has_the_terminal_open_and_nothing_else(start: Callable[..., Started]) -> None:
    started = start("ls", "ls", "-x", "/proc/self/fd")
    master, _ = started.ends()
    assert started.goes() == b""
    # The last is the directory that ls reads.
    assert read_until(master, b"\n").split() == [b"0", b"1", b"2", b"3"]


def test_nothing_begins_before_it_is_told_to(start: Callable[..., Started]) -> None:
    started = start("sh", "sh", "-c", "echo begun")
    started.ends()
    started.channel.close()
    assert started.process.wait(PATIENCE) == 126


@pytest.mark.parametrize(
    ("mode", "content", "reason", "status"),
    [
        (0o644, "#!/bin/sh\n", errno.EACCES, 126),
        (0o755, "#!/no/interpreter\n", errno.ENOENT, 127),
        (0o755, "neither a script nor a program\n", errno.ENOEXEC, 126),
    ],
)
def test_a_command_that_the_kernel_refuses_is_told_with_the_reason(
    start: Callable[..., Started], tmp_path: Path, mode: int, content: str, reason: int, status: int
) -> None:
    command = tmp_path / "command"
    command.write_text(content)
    command.chmod(mode)
    started = start(str(command), "command")
    started.ends()
    assert started.goes() == bytes([reason])
    assert started.process.wait(PATIENCE) == status


def test_a_command_that_is_nowhere_on_the_path_is_told(start: Callable[..., Started]) -> None:
    started = start("surely-not-there", "surely-not-there")
    started.ends()
    assert started.goes() == bytes([errno.ENOENT])
    assert started.process.wait(PATIENCE) == 127
