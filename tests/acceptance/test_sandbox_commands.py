"""Several commands in one sandbox: side by side, one after the other, and what none can do to the next."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import linux
from fakes.place import ENV, RUNTIMES, Place, place
from lanes import torture
from packhorse.base.sandbox import Command, Limits, Result, Sandbox
from packhorse.errors import CommandNotFound, PackhorseError

pytestmark = pytest.mark.system


@pytest.fixture(
    scope="module",
    params=[name if name == "bubblewrap" else torture(name) for name in RUNTIMES],
)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("commands"), request.param) as made:
        yield made


@pytest.fixture
def sandbox(here: Place) -> Iterator[Sandbox]:
    with here.sandbox.open(replace(here.spec("", *here.mounts()), argv=())) as sandbox:
        yield sandbox


def shell(script: str) -> Command:
    return Command(("sh", "-c", script), ENV)


def run(sandbox: Sandbox, script: str) -> tuple[int, str]:
    output: list[bytes] = []
    result = sandbox.run(output.append, shell(script))
    return result.status, b"".join(output).decode()


def run_all(
    sandbox: Sandbox, *scripts: str, at_once: int = 8
) -> tuple[Sequence[Result | PackhorseError], list[str]]:
    output = [b""] * len(scripts)

    def take(number: int, chunk: bytes) -> None:
        output[number] += chunk

    outcomes = sandbox.run_all([shell(script) for script in scripts], take, at_once=at_once)
    return outcomes, [each.decode() for each in output]


def statuses(outcomes: Sequence[Result | PackhorseError]) -> list[int]:
    return [outcome.status if isinstance(outcome, Result) else -1 for outcome in outcomes]


def processes_inside(sandbox: Sandbox) -> str:
    return run(sandbox, "cd /proc; for each in [0-9]*; do echo $each; done")[1]


def test_commands_follow_each_other_in_one_sandbox(sandbox: Sandbox) -> None:
    assert run(sandbox, "echo one > /tmp/file; exit 3") == (3, "")
    sandbox.tree.write("/tmp/other", b"two\n")
    assert run(sandbox, "cat /tmp/file /tmp/other") == (0, "one\ntwo\n")
    with pytest.raises(CommandNotFound):
        sandbox.run(None, Command(("/none/such",), ENV))
    assert run(sandbox, "exit 4")[0] == 4


def test_each_has_its_own_output_and_status_in_the_order_of_the_commands(sandbox: Sandbox) -> None:
    scripts = [f"echo out {number}; echo err {number} >&2; exit {number}" for number in range(20)]
    outcomes, output = run_all(sandbox, *scripts, at_once=3)
    assert statuses(outcomes) == list(range(20))
    assert output == [f"out {number}\nerr {number}\n" for number in range(20)]


def test_as_many_run_at_once_as_is_said_and_never_more(sandbox: Sandbox) -> None:
    # Each waits until all three have begun, which only three at once can do.
    waits = "touch /tmp/a{0}; set -- /tmp/a*; while [ $# -lt 3 ]; do set -- /tmp/a*; done; exit $#"
    outcomes, _ = run_all(sandbox, *(waits.format(number) for number in range(3)), at_once=3)
    assert statuses(outcomes) == [3] * 3
    alone = "mkdir /tmp/running && ls / >/dev/null && rmdir /tmp/running"
    outcomes, _ = run_all(sandbox, *([alone] * 10), at_once=1)
    assert statuses(outcomes) == [0] * 10


def test_one_that_cannot_be_run_leaves_the_others_alone(sandbox: Sandbox) -> None:
    sandbox.tree.write("/tmp/script", b"#!/none/such\n", mode=0o755)
    outcomes = sandbox.run_all(
        [shell("exit 1"), Command(("/none/such",), ENV), Command(("/tmp/script",), ENV), shell("exit 2")],
        lambda number, chunk: None,
        at_once=2,
    )
    assert statuses(outcomes) == [1, -1, -1, 2]
    assert all(isinstance(outcomes[number], CommandNotFound) for number in (1, 2))


def test_much_output_of_several_arrives_whole(sandbox: Sandbox) -> None:
    sandbox.tree.write("/tmp/much", b"x" * 3_000_000)
    _, output = run_all(sandbox, *["cat /tmp/much"] * 3)
    assert [len(each) for each in output] == [3_000_000] * 3


def test_no_process_of_a_command_is_there_when_the_next_runs(sandbox: Sandbox) -> None:
    leaves = "trap '' TERM HUP INT; (setsid sh -c 'while :; do echo x >> /tmp/left; done' &); exit 0"
    assert run(sandbox, leaves)[0] == 0
    assert len(processes_inside(sandbox).split()) == 2
    size = "$(stat -c %s /tmp/left)"
    nobody_writes = f"size={size}; for i in 1 2 3 4 5 6 7 8; do ls / >/dev/null; done; [ $size = {size} ]"
    assert run(sandbox, f"touch /tmp/left; {nobody_writes}") == (0, "")


def test_a_process_that_holds_the_output_open_holds_nothing_up(sandbox: Sandbox) -> None:
    assert run(sandbox, "(trap '' TERM HUP; sleep 300) & (setsid sleep 300) & echo done") == (0, "done\n")
    outcomes, output = run_all(sandbox, *["(setsid sleep 300) & echo done"] * 3)
    assert (statuses(outcomes), output) == ([0] * 3, ["done\n"] * 3)


def test_a_bomb_of_processes_is_gone_before_the_next_command(here: Place) -> None:
    step = replace(here.spec("", *here.mounts()), argv=(), limits=Limits(processes=64))
    with here.sandbox.open(step) as sandbox:
        bomb = "bomb() { bomb & bomb & }; bomb; for i in 1 2 3 4 5 6; do ls /; done"
        run(sandbox, f"({bomb}) >/dev/null 2>&1; exit 0")
        assert len(processes_inside(sandbox).split()) == 2
        assert run(sandbox, "(echo works)") == (0, "works\n")


def test_processes_that_were_stopped_are_ended(sandbox: Sandbox) -> None:
    assert run(sandbox, "sleep 300 & kill -STOP $!; exit 0")[0] == 0
    assert len(processes_inside(sandbox).split()) == 2


def test_one_that_stops_all_others_is_ended_from_outside(sandbox: Sandbox) -> None:
    def take(number: int, chunk: bytes) -> None:
        if number == 0:
            sandbox.signal(signal.SIGKILL)

    stops = shell("kill -STOP -1; echo stopped")
    outcomes = sandbox.run_all([stops, shell("while :; do :; done")], take, at_once=2)
    # Whoever was quicker: it is stopped itself, or the other one before it could say so.
    assert 137 in statuses(outcomes) or 0 in statuses(outcomes)
    assert run(sandbox, "echo on") == (0, "on\n")


SIGNALS = " ".join(str(number) for number in range(1, 65) if number not in (32, 33))


def test_no_signal_of_a_command_reaches_the_first_process(sandbox: Sandbox) -> None:
    script = f"for number in {SIGNALS}; do kill -$number 1 2>/dev/null; done; echo there"
    assert run(sandbox, script) == (0, "there\n")
    assert run(sandbox, "echo on") == (0, "on\n")


def test_the_first_process_cannot_be_looked_at_or_changed(here: Place, sandbox: Sandbox) -> None:
    script = """
    for name in mem maps environ cwd root exe fd auxv ns; do [ -e /proc/1/$name ] && echo $name; done
    for name in mem maps environ exe; do cat /proc/1/$name >/dev/null 2>&1 && echo read $name; done
    ls /proc/1/fd /proc/1/root 2>/dev/null
    chmod 777 /proc/1/program/init 2>/dev/null && echo chmod
    echo x 2>/dev/null >> /proc/1/program/init && echo wrote
    rm -f /proc/1/program/init 2>/dev/null; echo over
    """
    status, output = run(sandbox, script)
    assert status == 0
    if here.runtime == "bubblewrap":  # a container's first process is there, and shut
        assert output.splitlines() == ["over"]
    assert not any(word in output for word in ("read", "chmod", "wrote"))


def test_a_command_has_nothing_of_another_or_of_the_first_process_open(sandbox: Sandbox) -> None:
    script = "cd /proc/self/fd; for each in *; do [ ! -e $each ] || echo $each; done"
    for _ in range(2):
        assert run(sandbox, f"exec 7>/tmp/kept; {script}")[1].split() == ["0", "1", "2", "7"]
        outcomes, output = run_all(sandbox, script, script, script)
        assert statuses(outcomes) == [0] * 3
        assert [each.split() for each in output] == [["0", "1", "2"]] * 3


def test_the_program_of_the_first_process_does_nothing_elsewhere(here: Place, sandbox: Sandbox) -> None:
    if here.runtime == "bubblewrap":
        assert run(sandbox, "/proc/1/program/init 0; echo $?") == (0, "125\n")
    assert run(sandbox, "echo on") == (0, "on\n")


def test_two_commands_that_meet_in_tmp_do_not_reach_what_is_outside(here: Place, sandbox: Sandbox) -> None:
    secret = Path(here.base / "secret")
    secret.write_text("SECRET")
    outcomes, output = run_all(
        sandbox,
        f"ln -s {secret} /tmp/meeting; ln -s /proc/1/root{secret} /tmp/meeting2",
        "for i in 1 2 3 4 5 6 7 8; do cat /tmp/meeting /tmp/meeting2 2>/dev/null; done; exit 0",
    )
    assert statuses(outcomes) == [0, 0]
    assert "SECRET" not in "".join(output)
    assert sandbox.tree.readlink("/tmp/meeting") == str(secret)


def test_a_limit_that_one_meets_is_told_of_that_one(here: Place) -> None:
    # Control groups may not be had here; the size of a file is the kernel's to hold anywhere.
    step = replace(here.spec("", *here.mounts()), argv=(), limits=Limits(file_size=1 << 20))
    with here.sandbox.open(step) as sandbox:
        outcomes, _ = run_all(sandbox, "exec cat /dev/zero > /tmp/large", "exit 0", "exit 1")
        large, *others = outcomes
        assert isinstance(large, Result)
        assert (large.status, "file-size" in large.exceeded) == (128 + signal.SIGXFSZ, True)
        assert [each.exceeded for each in others if isinstance(each, Result)] == ["", ""]
        assert run(sandbox, "echo on") == (0, "on\n")


def test_nothing_is_left_when_a_sandbox_is_closed_while_commands_run(here: Place) -> None:
    before = linux.descendants(os.getpid())

    def interrupts(number: int, chunk: bytes) -> None:
        raise KeyboardInterrupt

    step = replace(here.spec("", *here.mounts()), argv=())
    with pytest.raises(KeyboardInterrupt), here.sandbox.open(step) as sandbox:
        script = "trap '' TERM HUP INT; setsid sleep 300 & echo running; sleep 300"
        sandbox.run_all([shell(script)] * 2, interrupts, at_once=2)
    assert linux.gone(linux.descendants(os.getpid()) - before)
