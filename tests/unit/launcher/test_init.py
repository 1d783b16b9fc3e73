"""The first process of a step in a container: when and as what it starts the command, what it tells."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from packhorse.sandbox.order import Failure, Order, encode
from unit.launcher.conftest import SOURCE

pytestmark = pytest.mark.system

PATIENCE = 60.0
Build = Callable[[Path, Path, str], dict[str, Path]]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
ORDER = Order(uids="", gids="", directory="/", executable="sh", arguments=["sh"], environment={}, files=256)


@pytest.fixture(scope="session")
def program(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    built = build(SOURCE, tmp_path_factory.mktemp("init"), "init")
    return built[{"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]]


class Started:
    """The program, started by its descriptor alone as in a sandbox, and our end of its socket."""

    def __init__(self, program: Path) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        self.printed, printed = os.pipe()
        own, nothing = os.open(program, os.O_PATH), os.open(os.devnull, os.O_RDONLY)
        words = (theirs.fileno(), own, nothing, printed, printed)
        self.process = subprocess.Popen(
            [f"/proc/self/fd/{own}", *map(str, words)], pass_fds=sorted(set(words)), env={"OURS": "x"}
        )
        theirs.close()
        for descriptor in (own, nothing, printed):
            os.close(descriptor)

    def run(self, script: str = "", *, program: bytes = b"", **changes: object) -> tuple[int, str]:
        """Gives an order; returns the status and what was printed."""
        order = {**ORDER, "arguments": ["sh", "-c", script], **changes}
        self.channel.sendall(encode(order, program))  # type: ignore[arg-type]
        printed = b""
        while select.select([self.printed], [], [], PATIENCE)[0] and (chunk := os.read(self.printed, 4096)):
            printed += chunk
        return self.process.wait(PATIENCE), os.fsdecode(printed)

    def failure(self) -> Failure | None:
        """What it tells of what it could not do."""
        told = self.channel.recv(64)
        return Failure(told) if told else None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
        os.close(self.printed)


@pytest.fixture
def started(program: Path) -> Iterator[Started]:
    started = Started(program)
    yield started
    started.close()


def filter_of(action: int) -> bytes:
    """A system call filter of one instruction."""
    return struct.pack("=HBBI", 0x06, 0, 0, action)


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -KILL $$", 137)])
def test_the_status_is_the_commands(started: Started, script: str, status: int) -> None:
    assert started.run(script) == (status, "")
    assert started.failure() is None


def test_the_command_leads_a_session_where_the_order_says(started: Started) -> None:
    script = "echo $0; pwd; ulimit -n; cat; read -r _ _ _ _ group session _ </proc/self/stat"
    script += "; echo $((group - $$)) $((session - $$))"
    status, printed = started.run(arguments=["web", "-c", script], directory="/tmp")
    assert (status, printed.split("\n")) == (0, ["web", "/tmp", "256", "0 0", ""])


def test_the_environment_is_the_orders(started: Started) -> None:
    status, printed = started.run(
        executable="env",
        arguments=["env"],
        environment={"PATH": "/usr/bin:/bin", "TEXT": "a b", "BYTES": "\udcff"},
    )
    assert (status, printed) == (0, "BYTES=\udcff\nPATH=/usr/bin:/bin\nTEXT=a b\n")


def test_no_descriptor_but_the_three_is_open(started: Started) -> None:
    status, printed = started.run(executable="/bin/ls", arguments=["ls", "/proc/self/fd"])
    assert (status, printed.split()) == (0, ["0", "1", "2", "3"])  # the last one is the directory


def test_without_an_order_nothing_is_run(started: Started) -> None:
    started.channel.shutdown(socket.SHUT_WR)
    assert started.process.wait(PATIENCE) == 125
    assert os.read(started.printed, 10) == b""


def test_half_an_order_is_none(started: Started) -> None:
    whole = encode({**ORDER, "arguments": ["sh", "-c", "echo ran"]}, b"")
    started.channel.sendall(whole[:-1])
    started.channel.shutdown(socket.SHUT_WR)
    assert started.process.wait(PATIENCE) == 125
    assert os.read(started.printed, 10) == b""


@pytest.mark.parametrize(
    ("changes", "task", "number"),
    [
        ({"executable": "/none/such"}, "e", errno.ENOENT),
        ({"executable": "/etc/passwd"}, "e", errno.EACCES),
        ({"directory": "/none/such"}, "d", errno.ENOENT),
        ({"directory": "/etc/passwd"}, "d", errno.ENOTDIR),
        ({"uids": "nonsense", "gids": "0 0 1"}, "i", errno.EINVAL),
        ({"program": b"\0" * 8}, "f", errno.EINVAL),
    ],
)
def test_what_cannot_be_done_is_told(
    started: Started, changes: dict[str, object], task: str, number: int
) -> None:
    assert started.run(**changes) == (125, "")  # type: ignore[arg-type]
    failure = started.failure()
    assert failure is not None and (failure.task, failure.words) == (task, os.strerror(number))


def test_the_filter_holds_for_the_command(started: Started) -> None:
    script = "grep -e NoNewPrivs -e ^Seccomp: /proc/self/status"
    _, printed = started.run(script, program=filter_of(ALLOW), environment={"PATH": "/usr/bin:/bin"})
    assert printed.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_soft_limit_above_the_hard_one_is_the_hard_one(started: Started) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert started.run("ulimit -n", files=(1 << 62)) == (0, f"{hard}\n")


def test_it_has_one_id_in_a_namespace_of_its_own_and_no_capability(started: Started) -> None:
    uid, gid = os.geteuid(), os.getegid()
    script = "id -u; id -g; grep ^Cap /proc/self/status"
    status, printed = started.run(
        script,
        uids=f"1000 {uid} 1\n",
        gids=f"1001 {gid} 1\n",
        environment={"PATH": "/usr/bin:/bin"},
    )
    uid_line, gid_line, *capabilities = printed.splitlines()
    assert (status, uid_line, gid_line, len(capabilities)) == (0, "1000", "1001", 5)
    assert {line.split()[1].strip("0") for line in capabilities} == {""}
