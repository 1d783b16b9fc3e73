"""The runner of a build: what its sandboxes see, and who may pass the directories that are written to."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from packhorse.base.sandbox import Bind, Mount, Network, Overlay, Sandbox, SandboxSpec
from packhorse.build.runner import BuildMounts, BuildRunner
from packhorse.lifecycle.ports import SandboxPurpose
from packhorse.linux.userns import Extent, IdMap, MapMode
from packhorse.sandbox.limits import written_directories


@dataclass
class _Layers:
    shown: Sequence[Mount] = ()
    copied: bool = False

    def mounts(self) -> Sequence[Mount]:
        return self.shown


@dataclass
class _Source:
    path: Path

    def lowers(self) -> tuple[Path, ...]:
        return (self.path,)

    def copy(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target)

    def confirm(self) -> bool:
        return True


def build_runner(
    open_step: Callable[[SandboxSpec], AbstractContextManager[Sandbox]],
    directory: Path,
    *,
    layers: _Layers | None = None,
    volumes: tuple[Mount, ...] = (),
    image: Sequence[str] = (),
) -> BuildRunner:
    for name in ("root", "app", "steps"):
        (directory / name).mkdir(mode=0o755)
    for name in image:
        path = directory / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    idmap = IdMap(MapMode.SINGLE, (Extent(1000, os.geteuid(), 1),), (Extent(1000, os.getegid(), 1),))
    mounts = BuildMounts(
        root=directory / "root",
        home="/home/cnb",
        uid=1000,
        gid=1000,
        path=directory / "app",
        source=_Source(directory / "app"),
        layers=layers or _Layers(),
        mounts=(),
        network=Network.HOST,
        volumes=volumes,
    )
    return BuildRunner(open_step, mounts, idmap, directory / "steps")


@dataclass
class _Sandbox:
    tree: object


class Opened:
    """What was opened, and in which order that was closed again."""

    def __init__(self) -> None:
        self.steps: list[SandboxSpec] = []
        self.said: list[str] = []

    @contextmanager
    def open(self, spec: SandboxSpec) -> Iterator[Sandbox]:
        self.steps.append(spec)
        number = len(self.steps)
        self.said.append(f"+{number}")
        yield _Sandbox(number)  # type: ignore[misc]  # what else it can do is not asked
        self.said.append(f"-{number}")

    def writable(self, number: int) -> set[Path]:
        """The directories that a sandbox writes to."""
        return set(written_directories(self.steps[number]))


def test_what_detection_writes_is_not_seen_by_the_build_nor_by_another_detection(tmp_path: Path) -> None:
    opened = Opened()
    runner = build_runner(opened.open, tmp_path)
    for scene in (SandboxPurpose.DETECTION, SandboxPurpose.DETECTION, SandboxPurpose.BUILD):
        with runner.open(scene):
            pass
    assert opened.said == ["+1", "-1", "+2", "-2", "+3", "-3"]
    first, second, third = (opened.writable(number) for number in range(3))
    assert not first & second | first & third | second & third


def test_a_build_has_the_layers_of_the_moment_when_it_is_opened(tmp_path: Path) -> None:
    opened, layers = Opened(), _Layers()
    runner = build_runner(opened.open, tmp_path, layers=layers)
    layers.shown = (Bind(tmp_path, "/layers"),)
    with runner.open(SandboxPurpose.BUILD):
        assert runner.result_tree() == 1
    assert layers.shown[0] in opened.steps[0].mounts


def test_the_result_of_a_build_has_no_volumes_of_the_users(tmp_path: Path) -> None:
    opened = Opened()
    volume = Bind(tmp_path, "/workspace/y")
    runner = build_runner(opened.open, tmp_path, volumes=(volume,))
    with runner.open(SandboxPurpose.BUILD):
        assert runner.result_tree() == 2
        assert runner.result_tree() == 2
        # The same directories are not to be mounted twice at a time.
        assert opened.said == ["+1", "-1", "+2"]
    assert opened.said == ["+1", "-1", "+2", "-2"]
    with_volume, without = opened.steps
    assert set(with_volume.mounts) - set(without.mounts) == {volume}
    assert without.network is Network.NONE


def homes(directory: Path, *image: str) -> list[type[Mount]]:
    """What is mounted as the home where buildpacks are asked, and where they build."""
    opened = Opened()
    runner = build_runner(opened.open, directory, image=image)
    for scene in (SandboxPurpose.DETECTION, SandboxPurpose.BUILD):
        with runner.open(scene):
            pass
    return [type(each) for spec in opened.steps for each in spec.mounts if each.target == "/home/cnb"]


@pytest.mark.parametrize(
    ("file", "mount"), [("etc/", Bind), ("home/cnb/", Bind), ("home/cnb/.profile", Overlay)]
)
def test_a_home_is_an_overlay_only_where_the_image_has_something_in_it(
    tmp_path: Path, file: str, mount: type[Mount]
) -> None:
    assert homes(tmp_path, file) == [mount, mount]


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_home_is_an_overlay_where_nothing_in_a_directory_could_be_executed(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", tmp_path], check=True)
    try:
        assert homes(tmp_path, "home/cnb/") == [Overlay, Overlay]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@contextmanager
def _nothing(spec: SandboxSpec) -> Iterator[Sandbox]:
    raise AssertionError(spec)
    yield  # a context manager has to have one


def test_directories_of_a_build_can_be_passed_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        runner = build_runner(_nothing, tmp_path)
        with pytest.raises(AssertionError), runner.open(SandboxPurpose.BUILD):
            pass
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "steps").rglob("*") if path.is_dir()]
    assert {path.name for path in made} >= {"build-app-upper", "build-app-work", "build-tmp-0"}
    assert [path.name for path in made if path.stat().st_mode & 0o055 != 0o055] == []
