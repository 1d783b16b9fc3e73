"""What lines of shell in the real sandbox are and see; run as root, and by `test_sandbox_users` as others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from fakes.cases import check_all
from fakes.place import ENV, RUNTIMES, Place, place
from lanes import first_in_test
from packhorse.base.sandbox import Command


@pytest.fixture(scope="module", params=first_in_test(RUNTIMES))
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place"), request.param) as made:
        yield made


def is_ordinary_user(output: str) -> None:
    lines = output.splitlines()
    assert lines[:3] == ["1000", "1000", "1000"] or lines[:3] == ["1000", "1000", "1000 65534"]
    status = dict(line.split(":\t", 1) for line in lines[3:] if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def is_own_environment(output: str) -> None:
    expected = ["PATH=/bin", "HOME=/home/cnb", "GREETING=a  b", "c", "EMPTY=", "PWD=/"]
    assert sorted(output.splitlines()) == sorted(expected)


def is_loopback_alone(output: str) -> None:
    assert [line.split(":")[0].strip() for line in output.splitlines() if ":" in line] == ["lo"]


def is_empty_input_and_no_more(output: str) -> None:
    # The fourth descriptor is the directory that ls itself reads.
    assert output.split() == ["4", "/dev/null"]


def is_in_order(output: str) -> None:
    expected = [f"{name} {number}" for number in range(300) for name in ("out", "err")]
    assert output.splitlines() == expected


def is_both_outputs(output: str) -> None:
    assert output == "out\nerr\n"


def is_anything(output: str) -> None:
    pass


SCRIPTS: dict[str, tuple[str, int, Callable[[str], None]]] = {
    "an ordinary user without any privilege": (
        "id -u; id -g; id -G; cat /proc/self/status",
        0,
        is_ordinary_user,
    ),
    "its environment and nothing else": ("exec env", 0, is_own_environment),
    "without a network there is loopback alone": ("cat /proc/net/dev", 0, is_loopback_alone),
    "no descriptor of another, and an empty input": (
        "cat; ls -l /proc/self/fd | grep -c -- '->'; readlink /proc/self/fd/0",
        0,
        is_empty_input_and_no_more,
    ),
    "both outputs come in the order they were written": (
        "i=0; while [ $i -lt 300 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done",
        0,
        is_in_order,
    ),
    "its outputs can be opened by name": (
        "echo out > /dev/stdout; echo err > /dev/stderr",
        0,
        is_both_outputs,
    ),
    "the status of success": ("exit 0", 0, is_anything),
    "the status of a failure": ("exit 7", 7, is_anything),
    "the status of SIGKILL": ("kill -9 $$", 137, is_anything),
    "the status of SIGTERM": ("kill -TERM $$; :", 143, is_anything),
}
"""What is run, its status, and what checks what it prints."""


def test_a_step_has_what_is_its_own_and_nothing_else(here: Place) -> None:
    env = {**ENV, "GREETING": "a  b\nc", "EMPTY": ""}
    with here.sandbox.open(replace(here.spec(""), argv=(), env=env)) as sandbox:

        def check(script: str, status: int, is_right: Callable[[str], None]) -> None:
            output: list[bytes] = []
            result = sandbox.run(output.append, Command(("sh", "-c", script), env))
            assert result.status == status, output
            assert (result.command == "") == (status == 0)
            is_right(b"".join(output).decode())

        check_all({name: partial(check, *row) for name, row in SCRIPTS.items()}, at_once=1)
