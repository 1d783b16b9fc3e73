"""Which buildpack directories have changed since a build, whose layers may be from before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packhorse.platform import buildpacks


@pytest.mark.parametrize(
    ("file", "counts"),
    [("main.py", True), ("bin/build", True), ("__pycache__/main.pyc", False), (".git/index", False)],
)
def test_a_file_that_is_newer_than_the_build_is_a_change(tmp_path: Path, file: str, counts: bool) -> None:
    for name in ("main.py", "bin/build", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000, 1000))
    names = [str(tmp_path), "some/id"]
    assert buildpacks.changed(names, 1000) == ()
    os.utime(tmp_path / file, (1001, 1001))
    assert buildpacks.changed(names, 1000) == ((str(tmp_path),) if counts else ())
