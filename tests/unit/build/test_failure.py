"""What a failed build leaves to look around in, and that nothing is left where nothing can be written."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from packhorse.build.runner import with_repeat_command
from packhorse.errors import BuildpackFailed

FAILED = BuildpackFailed("it failed", command="nice -n 0 -- echo 'its  own' '$A'")


@pytest.mark.system
def test_the_script_repeats_the_step_or_runs_what_stands_behind_it(tmp_path: Path) -> None:
    told = with_repeat_command(FAILED, tmp_path)
    assert told is not None and f"sh {tmp_path}/again.sh bash" in told.fix
    script = tmp_path / "again.sh"
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    said = [
        subprocess.run(["sh", script, *words], capture_output=True, text=True, check=True).stdout
        for words in ([], ["echo", "another  one"])
    ]
    assert said == ["its  own $A\n", "another  one\n"]


def test_a_build_without_network_is_said_to_have_had_none(tmp_path: Path) -> None:
    told, online = with_repeat_command(FAILED, tmp_path, offline=True), with_repeat_command(FAILED, tmp_path)
    assert told is not None and told.why == "the build had no network (--network none)"
    assert online is not None and online.why == ""


def test_a_failure_is_as_it_was_when_no_script_can_be_written(tmp_path: Path) -> None:
    assert with_repeat_command(FAILED, tmp_path / "missing") is None


def test_a_failure_that_cannot_be_repeated_leaves_nothing(tmp_path: Path) -> None:
    assert with_repeat_command(BuildpackFailed("it failed"), tmp_path) is None
    assert list(tmp_path.iterdir()) == []
