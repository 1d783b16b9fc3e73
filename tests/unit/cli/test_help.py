"""How commands are used, as a user without one to hand is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system


def packhorse(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "packhorse.cli.start", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [[], ["builder"], ["cache"], ["sbom"], ["buildpack"]])
def test_without_a_command_the_whole_help_is_shown_on_stderr(words: list[str]) -> None:
    done, asked = packhorse(*words), packhorse(*words, "--help")
    assert (done.returncode, done.stdout, asked.returncode) == (2, "", 0)
    assert done.stderr == asked.stdout
    _, _, rest = done.stderr.partition("\n")
    assert done.stderr.startswith("Usage: packhorse") and "..." not in rest and "error" not in rest


def test_the_help_of_run_shows_no_range_without_bounds() -> None:
    done = packhorse("run", "--help")
    assert done.returncode == 0 and "--pids-limit" in done.stdout
    assert "None" not in done.stdout
