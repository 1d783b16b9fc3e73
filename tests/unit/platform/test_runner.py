"""The decorated runner: what every step of a build sees, who may pass the directories it rests in, and which
rooms stay open for whom.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from packhorse.base.step import Bind, Mount, Network, Overlay, Step
from packhorse.base.userns import Extent, IdMap, Mode
from packhorse.platform.runner import BuildRunner, HeldRoom, Scene

HELD = Step(argv=())
BUILDS, DETECTS = Step(argv=("build",)), Step(argv=("detect",), scratch=True)


def build_runner(
    open_step: Callable[[Step], AbstractContextManager[HeldRoom]],
    directory: Path,
    *,
    layers: Callable[[], Sequence[Mount]] = tuple,
    volumes: tuple[Mount, ...] = (),
    network: Network = Network.NONE,
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
    idmap = IdMap(Mode.SINGLE, (Extent(1000, os.geteuid(), 1),), (Extent(1000, os.getegid(), 1),))
    scene = Scene(
        root=directory / "root",
        home="/home/cnb",
        uid=1000,
        gid=1000,
        app=(directory / "app",),
        layers=layers,
        mounts=(),
        network=network,
        volumes=volumes,
    )
    return BuildRunner(open_step, scene, idmap, directory / "steps")


@dataclass
class _Said:
    said: list[str]
    number: int
    vacant: bool

    def assign(self, step: Step) -> None:
        assert step.argv
        assert self.vacant
        self.said.append(f"!{self.number}")
        self.vacant = False


class Opened:
    """What was opened, a number each, was told its command, and was closed: `+1 +2 !2 -1`."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextmanager
    def open(self, step: Step) -> Iterator[HeldRoom]:
        number = sum(word.startswith("+") for word in self.said) + 1
        self.said.append(f"+{number}")
        try:
            yield _Said(self.said, number, step.deferred)  # type: ignore[misc]  # what else it can do is not asked
        finally:
            self.said.append(f"-{number}")

    def __str__(self) -> str:
        return " ".join(self.said)


def visit(runner: BuildRunner, *steps: Step) -> None:
    for step in steps:
        with runner.open(step):
            pass


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((DETECTS, DETECTS), "+1 -1 +2 -2"),
        ((HELD, HELD, BUILDS, HELD, HELD), "+1 !1"),
        ((HELD, BUILDS, BUILDS, HELD), "+1 !1 -1 +2"),
        ((BUILDS, HELD, BUILDS, HELD), "+1 -1 +2"),
        ((DETECTS, HELD, DETECTS, BUILDS, HELD), "+1 -1 +2 +3 -3 !2"),
    ],
)
def test_who_looks_is_shown_the_room_of_the_last_step(
    tmp_path: Path, steps: tuple[Step, ...], said: str
) -> None:
    opened = Opened()
    with build_runner(opened.open, tmp_path) as runner:
        visit(runner, *steps)
        assert str(opened) == said
    closed, made = ([word[1:] for word in opened.said if word[0] == sign] for sign in "-+")
    assert sorted(closed) == sorted(made)


def test_who_looks_does_not_see_the_users_volumes(tmp_path: Path) -> None:
    opened = Opened()
    volume = Bind(tmp_path, "/layers/x/y")
    with build_runner(opened.open, tmp_path, volumes=(volume,)) as runner:
        visit(runner, HELD, BUILDS, HELD, HELD)
        assert str(opened) == "+1 -1 +2 -2 +3"


def test_who_looks_sees_the_layers_of_now(tmp_path: Path) -> None:
    opened = Opened()
    layers: list[Mount] = []
    with build_runner(opened.open, tmp_path, layers=lambda: layers) as runner:
        visit(runner, HELD)
        layers.append(Bind(tmp_path, "/layers"))
        visit(runner, HELD, HELD)
        assert str(opened) == "+1 -1 +2"


@pytest.mark.parametrize(("before", "said"), [((), "+1 -1"), ((HELD,), "+1 !1 -1")])
def test_the_room_of_a_step_that_failed_is_closed_at_once(
    tmp_path: Path, before: tuple[Step, ...], said: str
) -> None:
    opened = Opened()
    with build_runner(opened.open, tmp_path) as runner:
        visit(runner, *before)
        with pytest.raises(ValueError, match="failed"), runner.open(BUILDS):
            raise ValueError("failed")
        assert str(opened) == said


def test_who_makes_ready_waits_with_the_network_of_the_first_step(tmp_path: Path) -> None:
    asked: list[Step] = []

    @contextmanager
    def opens(step: Step) -> Iterator[HeldRoom]:
        asked.append(step)
        yield _Said([], 0, step.deferred)  # type: ignore[misc]

    with build_runner(opens, tmp_path, network=Network.HOST) as runner:
        visit(runner, HELD, BUILDS, BUILDS, HELD)
    assert [(step.argv, step.deferred, step.network) for step in asked] == [
        ((), True, Network.HOST),
        (("build",), False, Network.HOST),
    ]


def homes(directory: Path, *image: str) -> list[type[Mount]]:
    """What is mounted as the home where buildpacks are asked, and where they build."""
    asked: list[Step] = []

    @contextmanager
    def opens(step: Step) -> Iterator[HeldRoom]:
        asked.append(step)
        yield _Said([], 0, step.deferred)  # type: ignore[misc]

    with build_runner(opens, directory, image=image) as runner:
        visit(runner, DETECTS, BUILDS)
    return [type(each) for step in asked for each in step.mounts if each.target == "/home/cnb"]


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
def _nothing(step: Step) -> Iterator[HeldRoom]:
    raise AssertionError(step)
    yield  # a context manager has to have one


def test_directories_of_a_build_can_be_passed_by_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        runner = build_runner(_nothing, tmp_path)
        with pytest.raises(AssertionError), runner.open(Step(argv=())):
            pass
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "steps").rglob("*") if path.is_dir()]
    assert {path.name for path in made} >= {"shared-app-upper", "shared-app-work", "shared-tmp-0"}
    assert [path.name for path in made if path.stat().st_mode & 0o055 != 0o055] == []
