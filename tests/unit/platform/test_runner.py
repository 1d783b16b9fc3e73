"""The decorated runner: what every step of a build sees, and who may pass the directories it rests in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from packhorse.base.step import Network, Room, Step
from packhorse.base.userns import Extent, IdMap, Mode
from packhorse.platform.runner import BuildRunner, Scene


@contextmanager
def _nothing(step: Step) -> Iterator[Room]:
    raise AssertionError(step)
    yield  # a context manager has to have one


def test_directories_of_a_build_can_be_passed_by_others_whatever_the_umask(tmp_path: Path) -> None:
    for name in ("root", "app", "steps"):
        (tmp_path / name).mkdir(mode=0o755)
    idmap = IdMap(Mode.SINGLE, (Extent(1000, os.geteuid(), 1),), (Extent(1000, os.getegid(), 1),))
    scene = Scene(
        root=tmp_path / "root",
        home="/home/cnb",
        uid=1000,
        gid=1000,
        app=(tmp_path / "app",),
        layers=tuple,
        mounts=(),
        network=Network.NONE,
    )
    before = os.umask(0o077)
    try:
        runner = BuildRunner(_nothing, scene, idmap, tmp_path / "steps")
        with pytest.raises(AssertionError), runner.open(Step(argv=())):
            pass
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "steps").rglob("*") if path.is_dir()]
    assert {path.name for path in made} >= {"shared", "app", "upper", "work", "tmp-0"}
    assert [path.name for path in made if path.stat().st_mode & 0o055 != 0o055] == []
