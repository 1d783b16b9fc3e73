"""Where `--sparse` means nothing it is told before anything is done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(sys.executable).parent / "packhorse"


@pytest.mark.parametrize(
    "words",
    [
        ["copy", "app", "docker://127.0.0.1:1/app", "--sparse"],
        ["copy", "docker://127.0.0.1:1/app", "oci:layout:app", "--all", "--sparse"],
        ["copy", "docker://127.0.0.1:1/app", "oci:layout:app", "--referrers", "--sparse"],
        ["build", "app", "--output", "docker-archive:app.tar", "--sparse"],
    ],
)
def test_sparse_is_for_one_image_and_a_layout(words: list[str], tmp_path: Path) -> None:
    environ = {**os.environ, "PACKHORSE_HOME": str(tmp_path / "home")}
    done = subprocess.run([PROGRAM, *words], env=environ, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "leave out --sparse" in done.stderr
