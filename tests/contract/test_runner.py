"""The suite of the port Runner: what every phase may rely on, whatever runs its steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from fakes.place import ENV, RUNTIMES, place
from fakes.runner import FakeRunner, shell
from lanes import torture
from packhorse.base.sandbox import Sandbox, SandboxSpec
from packhorse.errors import CommandNotFound


class Opens(Protocol):
    """Of a Runner what sandboxes do; what a build shows beside is tested where builds are."""

    def open(self, spec: SandboxSpec) -> AbstractContextManager[Sandbox]: ...


@dataclass(frozen=True)
class Case:
    """What opens steps, and a function that makes one of a shell script that can write to /layers."""

    runner: Opens
    spec: Callable[[str], SandboxSpec]


@contextmanager
def sandbox(runtime: str, base: Path) -> Iterator[Case]:
    with place(base, runtime) as here:
        layers = here.overlay("/layers")
        yield Case(here.sandbox, lambda script: here.spec(script, layers))


@contextmanager
def fake(base: Path) -> Iterator[Case]:
    (base / "root" / "layers").mkdir(parents=True)
    runner = FakeRunner(base / "root", base, {"sh": shell, "/bin/sh": shell})
    yield Case(runner, lambda script: SandboxSpec(argv=("sh", "-c", script), env=ENV))


RUNNERS: dict[str, Callable[[Path], AbstractContextManager[Case]]] = {
    **{runtime: partial(sandbox, runtime) for runtime in RUNTIMES},
    "fake": fake,
}


IN_TEST = ("bubblewrap", "fake")


@pytest.fixture(
    scope="module", params=[runner if runner in IN_TEST else torture(runner) for runner in RUNNERS]
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    with RUNNERS[request.param](tmp_path_factory.mktemp("runner")) as case:
        yield case


def run(case: Case, script: str, *, env: Mapping[str, str] = ENV) -> tuple[int, bytes]:
    output: list[bytes] = []
    with case.runner.open(replace(case.spec(script), env=env)) as room:
        return room.run(output.append).status, b"".join(output)


def test_a_step_gets_its_status_and_output_back(case: Case) -> None:
    assert run(case, "echo out; echo err >&2; exit 3") == (3, b"out\nerr\n")
    assert run(case, "kill -KILL $$")[0] == 128 + signal.SIGKILL


def test_a_step_has_the_given_environment_only(case: Case) -> None:
    _, output = run(case, "env | sort", env={"PATH": "/bin", "NAME": "value"})
    assert [line for line in output.splitlines() if not line.startswith((b"PWD=", b"_=", b"SHLVL="))] == (
        [b"NAME=value", b"PATH=/bin"]
    )


def test_a_step_starts_in_its_directory_with_an_empty_input(case: Case) -> None:
    output: list[bytes] = []
    with case.runner.open(replace(case.spec("pwd; cat"), cwd="/layers")) as room:
        assert room.run(output.append).status == 0
    assert b"".join(output) == b"/layers\n"


def test_steps_see_what_earlier_steps_and_edits_between_have_left(case: Case) -> None:
    with case.runner.open(case.spec("mkdir /layers/a; echo step > /layers/a/file")) as room:
        room.run(None)
        room.tree.write("/layers/a/more", b"edit\n")
    assert run(case, "cat /layers/a/file /layers/a/more") == (0, b"step\nedit\n")
    with case.runner.open(replace(case.spec(""), argv=())) as room:
        room.tree.remove("/layers/a")
    assert run(case, "ls -A /layers") == (0, b"")


def test_edits_before_a_step_are_seen_by_it(case: Case) -> None:
    output: list[bytes] = []
    with case.runner.open(case.spec("cat /layers/before; rm /layers/before")) as room:
        room.tree.write("/layers/before", b"edit")
        room.run(output.append)
        assert room.tree.stat("/layers/before") is None
    assert output == [b"edit"]


def test_a_missing_command_is_an_error_with_dockers_status(case: Case) -> None:
    with (
        case.runner.open(replace(case.spec(""), argv=("/none/such",))) as room,
        pytest.raises(CommandNotFound) as raised,
    ):
        room.run(None)
    assert raised.value.exit_code == 127


def test_a_signal_ends_a_step(case: Case) -> None:
    with case.runner.open(case.spec("echo ready; exec sleep 300")) as room:
        assert room.run(lambda chunk: room.signal(signal.SIGTERM)).status == 128 + signal.SIGTERM
        room.signal(signal.SIGTERM)


def test_an_executable_may_have_another_name(case: Case) -> None:
    output: list[bytes] = []
    with case.runner.open(
        replace(case.spec(""), argv=("web", "-c", "echo $0 $1", "x", "y"), executable="/bin/sh")
    ) as room:
        room.run(output.append)
    # The words after the script are $0 and $1 to a shell, which shows that they have all arrived.
    assert output == [b"x y\n"]
