"""Who reads the output may go at any time: that ends a command as SIGPIPE would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(sys.executable).parent / "packhorse"


@pytest.mark.parametrize(
    "words", [["--help"], ["build", "--help"], ["rebase", "-h"], ["--version"], ["images"]]
)
def test_nobody_who_reads_is_the_end_as_for_other_programs(words: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [PROGRAM, *words],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PACKHORSE_HOME": str(tmp_path)},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["login", "localhost:1"], 2),
        (["login", "localhost:1", "-u", "me", "--password-stdin"], 2),
        (["rebase", "-"], 0),
        (["run", "-it", "nothing/of/the/kind"], 125),
    ],
)
def test_a_standard_input_that_is_closed_is_an_empty_one(
    words: list[str], status: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" <&-', PROGRAM, *words],
        capture_output=True,
        env={**os.environ, "PACKHORSE_HOME": str(tmp_path)},
    )
    assert (done.returncode, b"went wrong" in done.stderr) == (status, False), done.stderr


LIMITED = """
import os, resource, sys
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(54322, 54322, 54322)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    os.setresuid(54322, 54322, 54322)
else:
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
sys.path[:] = sys.argv[1].split(":")
sys.argv[:] = ["packhorse", "images"]
from packhorse.cli.main import program
program()
"""


def test_a_user_who_may_have_no_thread_is_told_so() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", "-c", LIMITED, ":".join(sys.path)],
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert (done.returncode, "ulimit -u" in done.stderr) == (7, True), done.stderr
    assert "Traceback" not in done.stderr
