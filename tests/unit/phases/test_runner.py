"""Buildpacks as plain processes: their output, their status, and the end of all that they leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import linux
from packhorse.base.sandbox import Command, Result
from packhorse.errors import CommandNotFound, NotExecutable, SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.phases.runner import InPlaceSandbox

pytestmark = pytest.mark.system

SOURCE = Path(sys.modules["packhorse"].__path__[0]).parent

PATH = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
def sandbox() -> Iterator[InPlaceSandbox]:
    with RootedTree.open_local("/") as tree:
        yield InPlaceSandbox(tree)


def shell(script: str, *, cwd: str = "/") -> Command:
    return Command(("/bin/sh", "-c", script), PATH, cwd)


def test_output_comes_in_order_and_nothing_is_inherited(
    sandbox: InPlaceSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "value")
    said: list[bytes] = []
    script = 'echo one; echo two >&2; echo "$PWD ${SECRET-none}"; cat; exit 7'
    result = sandbox.run(said.append, shell(script, cwd=str(tmp_path)))
    assert b"".join(said).decode() == f"one\ntwo\n{tmp_path} none\n"
    assert result.status == 7


def test_a_signal_is_part_of_the_status(sandbox: InPlaceSandbox) -> None:
    assert sandbox.run(None, shell("kill -TERM $$")).status == 128 + signal.SIGTERM


def test_what_a_command_leaves_is_killed_even_if_it_holds_the_output(
    sandbox: InPlaceSandbox, tmp_path: Path
) -> None:
    script = (
        f"sleep 1000 & echo $! > {tmp_path}/group\n"
        f"setsid sh -c 'echo $$ > {tmp_path}/session; exec sleep 1000' &\n"
        f"setsid sh -c '(setsid sh -c \"echo \\$\\$ > {tmp_path}/orphan; exec sleep 1000\" &)'\n"
        f"while ! [ -s {tmp_path}/session ] || ! [ -s {tmp_path}/orphan ]; do :; done\n"
        "echo done"
    )
    said: list[bytes] = []
    assert sandbox.run(said.append, shell(script)).status == 0
    assert said == [b"done\n"]
    left = {int((tmp_path / name).read_text()) for name in ("group", "session", "orphan")}
    assert linux.gone(left)


def test_several_commands_run_at_once_and_keep_their_output_apart(
    sandbox: InPlaceSandbox, tmp_path: Path
) -> None:
    # Each waits for the other: they end only if both run at the same time.
    scripts = [
        f"touch {tmp_path}/{me}; while ! [ -e {tmp_path}/{other} ]; do :; done; echo {me}"
        for me, other in (("a", "b"), ("b", "a"))
    ]
    said: list[tuple[int, bytes]] = []
    commands = [*map(shell, scripts), Command(("/no/such",)), shell("echo c; exit 3")]
    results = sandbox.run_all(commands, lambda number, chunk: said.append((number, chunk)), at_once=2)
    assert sorted(said) == [(0, b"a\n"), (1, b"b\n"), (3, b"c\n")]
    assert [result.status if isinstance(result, Result) else type(result) for result in results] == [
        0,
        0,
        CommandNotFound,
        3,
    ]


def test_a_program_that_cannot_be_started_says_why(sandbox: InPlaceSandbox, tmp_path: Path) -> None:
    plain, script, odd = tmp_path / "plain", tmp_path / "script", tmp_path / "odd"
    plain.write_text("no program")
    script.write_text("#!/no/interpreter\n")
    odd.write_text("no program")
    script.chmod(0o755)
    odd.chmod(0o755)
    for path, kind, why in (
        (tmp_path / "missing", CommandNotFound, "it does not exist"),
        (script, CommandNotFound, "its interpreter does not exist"),
        (plain, NotExecutable, "Permission denied"),
        (odd, NotExecutable, "Exec format error"),
    ):
        with pytest.raises(kind) as raised:
            sandbox.run(None, Command((str(path),)))
        assert raised.value.why == why
    with pytest.raises(SandboxError) as missing:
        sandbox.run(None, shell("true", cwd=str(tmp_path / "missing")))
    assert missing.value.why == f"its directory {tmp_path}/missing: No such file or directory"


ENDED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from packhorse.base.sandbox import Command
from packhorse.fs.rooted import RootedTree
from packhorse.phases.runner import InPlaceSandbox, end_with_children
signal.signal(signal.SIGTERM, lambda number, _: end_with_children(number))
with RootedTree.open_local("/") as tree:
    script = "setsid sh -c 'echo $$; exec sleep 1000' & wait"
    InPlaceSandbox(tree).run(lambda chunk: os.write(1, chunk), Command(("/bin/sh", "-c", script)))
"""


def test_a_signal_ends_the_phase_and_what_it_has_started() -> None:
    words = [sys.executable, "-c", ENDED, str(SOURCE)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as phase:
        assert phase.stdout is not None
        child = int(phase.stdout.readline())
        os.kill(phase.pid, signal.SIGTERM)
        assert phase.wait() == -signal.SIGTERM
        assert linux.gone({child})
