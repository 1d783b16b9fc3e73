"""Commands of a buildpack: output as it comes, an end that is a value or an error."""

import io
import os
import time
from pathlib import Path

import pytest

from packhorse.base.log import Log
from packhorse.errors import HostError
from packhorse.sdk.command import CommandFailed, capture, run

pytestmark = pytest.mark.system


def shell(script: str, out: io.StringIO) -> str:
    log = Log(out, out)
    return run(["sh", "-c", script], cwd=Path("/"), env={"PATH": os.environ["PATH"]}, log=log)


def test_output_and_errors_are_shown_indented_in_their_order_below_the_command() -> None:
    out = io.StringIO()
    assert shell("echo one; echo two >&2; printf three", out) == "one\ntwo\nthree"
    assert out.getvalue() == "  $ sh -c 'echo one; echo two >&2; printf three'\n    one\n    two\n    three\n"


def test_a_character_split_between_two_reads_is_shown_whole() -> None:
    out = io.StringIO()
    shell(r"printf '\303'; sleep 0.02; printf '\244\n'", out)
    assert out.getvalue().endswith("    ä\n")


def test_a_failing_command_is_an_error_with_its_status_and_output() -> None:
    with pytest.raises(CommandFailed) as caught:
        shell("echo broken; exit 7", io.StringIO())
    assert caught.value.status == 7
    assert caught.value.output == "broken\n"
    assert caught.value.what == "`sh -c 'echo broken; exit 7'` failed (exit status 7)"


def test_a_killed_command_is_named_by_its_signal() -> None:
    with pytest.raises(CommandFailed, match=r"\(signal 9\)"):
        shell("kill -9 $$", io.StringIO())


def test_a_daemon_that_keeps_the_pipe_open_does_not_hold_up_the_build() -> None:
    started = time.monotonic()
    assert shell("sleep 30 & echo $! started", io.StringIO()).endswith("started\n")
    assert time.monotonic() - started < 25


def test_a_missing_command_says_what_the_build_image_must_have() -> None:
    with pytest.raises(HostError, match="cannot run `no-such-tool`") as caught:
        run(["no-such-tool"], cwd=Path("/"), env={}, log=Log(io.StringIO(), io.StringIO()))
    assert "on PATH" in caught.value.fix


@pytest.mark.parametrize(
    ("content", "mode", "fix"),
    [
        ("echo", 0o644, "chmod +x"),
        ("echo", 0o755, "names no interpreter"),
        ("#!/no/such\n", 0o755, "interpreter or loader that it names"),
    ],
)
def test_a_file_that_cannot_be_started_says_what_it_lacks(
    tmp_path: Path, content: str, mode: int, fix: str
) -> None:
    (tmp_path / "tool").write_text(content)
    (tmp_path / "tool").chmod(mode)
    with pytest.raises(HostError, match=r"cannot run `\./tool`") as caught:
        capture(["./tool"], cwd=tmp_path, env={})
    assert fix in caught.value.fix and "Errno" not in caught.value.why


def test_a_captured_command_returns_standard_output_only() -> None:
    env = {"PATH": os.environ["PATH"]}
    assert capture(["sh", "-c", "echo out; echo err >&2"], cwd=Path("/"), env=env) == "out\n"


def test_a_captured_command_that_fails_tells_both_outputs() -> None:
    env = {"PATH": os.environ["PATH"]}
    with pytest.raises(CommandFailed) as caught:
        capture(["sh", "-c", "echo out; echo err >&2; exit 1"], cwd=Path("/"), env=env)
    assert caught.value.why == "out\nerr"
