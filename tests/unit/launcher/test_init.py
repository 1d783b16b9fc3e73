"""The first process of a sandbox: when and as what it starts commands, what it tells, what it leaves."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from packhorse.sandbox.init import (
    ENDED,
    GONE,
    READY,
    REFUSED,
    SIGNAL,
    SIZE,
    START,
    Answer,
    Order,
    decode,
    encode,
    encode_request,
)
from unit.launcher.conftest import SOURCE

pytestmark = pytest.mark.system

PATIENCE = 60.0
Build = Callable[[Path, Path, str], dict[str, Path]]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
ORDER = Order(directory="/", executable="sh", arguments=["sh"], environment={}, files=256)


@pytest.fixture(scope="session")
def program(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for this machine."""
    built = build(SOURCE, tmp_path_factory.mktemp("init"), "init")
    return built[{"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]]


class Started:
    """The program as process 1 of a namespace, and our end of its socket."""

    def __init__(self, program: Path, *maps: str) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(PATIENCE)
        stray = os.open(os.devnull, os.O_RDONLY)
        number = theirs.fileno()
        self.process = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--pid", "--fork", program, str(number), *maps],
            pass_fds=(number, stray),
            env={"OURS": "x", "PATH": os.environ["PATH"]},
        )
        theirs.close()
        os.close(stray)

    def start(self, number: int, order: Order, program: bytes = b"", given: int | None = None) -> int:
        """Has a command started, with an input of its own or none; returns a descriptor of what it prints."""
        read, write = os.pipe()
        entered = os.open(os.devnull, os.O_RDONLY) if given is None else os.dup(given)
        file = os.memfd_create("order")
        os.write(file, encode(order, program))
        socket.send_fds(self.channel, [encode_request(START, number)], [file, entered, write, write])
        for descriptor in (entered, file, write):
            os.close(descriptor)
        return read

    def answers(self, until: str = GONE) -> list[Answer]:
        """What it tells, up to an answer of a kind."""
        answers = [decode(self.channel.recv(SIZE))]
        while answers[-1]["kind"] != until:
            answers.append(decode(self.channel.recv(SIZE)))
        return answers

    def run(self, script: str = "", *, program: bytes = b"", **changes: object) -> tuple[list[Answer], str]:
        """Runs one command; returns the answers and what was printed."""
        order = {**ORDER, "arguments": ["sh", "-c", script], **changes}
        printed = self.start(0, order, program)  # type: ignore[arg-type]
        answers = self.answers()
        return answers, text(printed)

    def close(self) -> None:
        self.channel.close()
        assert self.process.wait(PATIENCE) == 125


def text(descriptor: int) -> str:
    """All that comes from a pipe whose other ends are closed, or are about to be."""
    printed = b""
    while select.select([descriptor], [], [], PATIENCE)[0] and (chunk := os.read(descriptor, 4096)):
        printed += chunk
    os.close(descriptor)
    return os.fsdecode(printed)


def shell(script: str) -> Order:
    return Order(
        directory="/",
        executable="sh",
        arguments=["sh", "-c", script],
        environment={"PATH": "/usr/bin:/bin"},
        files=256,
    )


def statuses(answers: Sequence[Answer]) -> list[tuple[str, int, int]]:
    return [(answer["kind"], answer["command"], answer["value"]) for answer in answers]


@pytest.fixture
def started(program: Path) -> Iterator[Started]:
    started = Started(program)
    started.answers(until=READY)
    yield started
    started.close()


def filter_of(action: int) -> bytes:
    """A system call filter of one instruction."""
    return struct.pack("=HBBI", 0x06, 0, 0, action)


def test_it_runs_as_nothing_but_process_1(program: Path) -> None:
    # It kills all that it sees.
    assert subprocess.run([program, "0"], check=False).returncode == 125


def test_the_status_is_the_commands_and_nothing_else_is_left_then(started: Started) -> None:
    for script, status in (("exit 7", 7), ("kill -KILL $$", 137), ("exit 0", 0)):
        answers, printed = started.run(script)
        assert (statuses(answers), printed) == ([(ENDED, 0, status), (GONE, -1, 0)], "")


def test_the_command_leads_a_session_where_the_order_says(started: Started) -> None:
    script = "echo $0; pwd; ulimit -n; cat; read -r _ _ _ _ group session _ </proc/self/stat"
    script += "; read -r own _ </proc/self/stat; echo $((group - own)) $((session - own))"
    _, printed = started.run(arguments=["web", "-c", script], directory="/tmp")
    assert printed.split("\n") == ["web", "/tmp", "256", "0 0", ""]


def test_the_environment_is_the_orders(started: Started) -> None:
    _, printed = started.run(
        executable="env",
        arguments=["env"],
        environment={"PATH": "/usr/bin:/bin", "TEXT": "a b", "BYTES": "\udcff"},
    )
    assert printed == "BYTES=\udcff\nPATH=/usr/bin:/bin\nTEXT=a b\n"


def test_an_order_may_be_larger_than_a_message(started: Started) -> None:
    large = "x" * (1 << 16)
    environment = {"PATH": "/usr/bin:/bin", **{f"A{number}": large for number in range(20)}}
    _, printed = started.run("echo ${#A0} ${#A19}", environment=environment)
    assert printed == "65536 65536\n"


def test_no_descriptor_but_the_three_is_open(started: Started) -> None:
    other = started.start(1, shell("exec sleep 300"))
    listing = started.start(2, {**ORDER, "executable": "/bin/ls", "arguments": ["ls", "/proc/self/fd"]})
    answers = started.answers(until=ENDED)
    assert statuses(answers) == [(ENDED, 2, 0)]
    assert text(listing).split() == ["0", "1", "2", "3"]  # the last one is the directory
    started.channel.send(encode_request(SIGNAL, 1, 9))
    assert statuses(started.answers()) == [(ENDED, 1, 137), (GONE, -1, 0)]
    os.close(other)


def test_several_run_at_once_and_the_last_that_ends_takes_all_with_it(started: Started) -> None:
    read, write = os.pipe()
    # The first ends only after the second was asked for: where nothing runs, all is over.
    first = started.start(1, shell("(trap '' TERM HUP; setsid sleep 300) & read -r _; exit 3"), given=read)
    second = started.start(2, shell("setsid sleep 300 & exec sleep 0.05"))
    os.write(write, b"\n")
    os.close(read)
    os.close(write)
    assert sorted(statuses(started.answers())) == [(ENDED, 1, 3), (ENDED, 2, 0), (GONE, -1, 0)]
    # Nobody has the pipes any more, so that they end.
    assert (text(first), text(second)) == ("", "")


@pytest.mark.parametrize(
    ("changes", "task", "number"),
    [
        ({"executable": "/none/such"}, "e", errno.ENOENT),
        ({"executable": "/etc/passwd"}, "e", errno.EACCES),
        ({"directory": "/none/such"}, "d", errno.ENOENT),
        ({"directory": "/etc/passwd"}, "d", errno.ENOTDIR),
        ({"program": b"\0" * 8}, "f", errno.EINVAL),
    ],
)
def test_what_cannot_be_done_is_told(
    started: Started, changes: dict[str, object], task: str, number: int
) -> None:
    answers, printed = started.run(**changes)  # type: ignore[arg-type]
    assert printed == ""
    assert statuses(answers) == [(REFUSED, 0, ord(task)), (ENDED, 0, 125), (GONE, -1, 0)]
    assert answers[0]["reason"] == number
    assert statuses(started.run("exit 4")[0])[0] == (ENDED, 0, 4)


def test_an_order_that_is_cut_off_ends_nothing_else(started: Started) -> None:
    file = os.memfd_create("order")
    os.write(file, encode(shell("echo ran"), b"")[:-1])
    socket.send_fds(started.channel, [encode_request(START, 0)], [file, 0, 1, 2])
    os.close(file)
    answers = started.answers()
    assert statuses(answers) == [(REFUSED, 0, ord("s")), (ENDED, 0, 125), (GONE, -1, 0)]
    assert statuses(started.run("exit 5")[0])[0] == (ENDED, 0, 5)


def test_what_is_told_of_no_command_is_refused_or_ignored(started: Started) -> None:
    for number in (-1, 1 << 20):
        started.channel.send(encode_request(SIGNAL, number, 9))
        socket.send_fds(started.channel, [encode_request(START, number)], [0])
        assert statuses(started.answers())[0] == (REFUSED, number, ord("s"))
    started.channel.send(encode_request(START, 0))
    assert statuses(started.answers())[0] == (REFUSED, 0, ord("s"))


def test_it_ends_with_the_other_end_of_its_socket_and_all_with_it(program: Path) -> None:
    started = Started(program)
    started.answers(until=READY)
    printed = started.start(0, shell("trap '' TERM HUP INT; echo here; sleep 300 & sleep 300"))
    assert os.read(printed, 100) == b"here\n"
    started.close()
    assert text(printed) == ""


def test_no_signal_from_inside_reaches_it(started: Started) -> None:
    script = "for number in 1 2 3 6 9 10 11 15 17 19 20; do kill -$number 1; done; echo there"
    answers, printed = started.run(script)
    assert (statuses(answers), printed) == ([(ENDED, 0, 0), (GONE, -1, 0)], "there\n")


def test_the_filter_holds_for_the_command(started: Started) -> None:
    script = "grep -e NoNewPrivs -e ^Seccomp: /proc/self/status"
    _, printed = started.run(script, program=filter_of(ALLOW), environment={"PATH": "/usr/bin:/bin"})
    assert printed.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def test_a_soft_limit_above_the_hard_one_is_the_hard_one(started: Started) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert started.run("ulimit -n", files=(1 << 62))[1] == f"{hard}\n"


def test_it_has_one_id_in_a_namespace_of_its_own_and_no_capability(program: Path) -> None:
    started = Started(program, "1000 0 1\n", "1001 0 1\n")
    started.answers(until=READY)
    script = "id -u; id -g; grep ^Cap /proc/self/status"
    _, printed = started.run(script, environment={"PATH": "/usr/bin:/bin"})
    uid_line, gid_line, *capabilities = printed.splitlines()
    assert (uid_line, gid_line, len(capabilities)) == ("1000", "1001", 5)
    assert {line.split()[1].strip("0") for line in capabilities} == {""}
    started.close()


def test_ids_that_cannot_be_had_are_told(program: Path) -> None:
    started = Started(program, "nonsense", "0 0 1")
    answers = started.answers(until=REFUSED)
    assert answers[-1]["reason"] == errno.EINVAL
    started.close()
