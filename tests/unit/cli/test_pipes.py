"""Who reads the output may go at any time: that ends a command as SIGPIPE would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
