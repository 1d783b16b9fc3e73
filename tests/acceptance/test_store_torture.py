"""A short version of `python -m torture`, and stores in places where nobody put them on purpose."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import afterwards, linux
from fakes.installation import REPOSITORY
from fakes.users import RANGE
from lanes import first_in_test
from torture.crowd import Crowds
from torture.faults import KILL, Faults, Injector
from torture.ground import BUILDER, RUN, Ground, prepare
from torture.kill import KINDS, Killer

KEPT = "1 untouched, 2 written to and the same, 0 changed; 0 B read and hashed, 0 entries linked"
"""What a build of the ground's app costs that finds what the last one has kept."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="it makes users, mounts and homes")


@pytest.fixture(scope="module")
def ground(program: Path, common: Path) -> Iterator[Ground]:
    """A ground of the user with subordinate ids, whose trees no other user can move or remove."""
    folder = common / f"torture-{os.getpid()}"
    folder.mkdir()
    yield prepare(folder, RANGE, program=program)
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture(scope="module")
def injector(ground: Ground) -> Injector:
    return Injector(ground)


def at(ground: Ground, path: Path) -> Ground:
    """The same ground with its home elsewhere, made when there is none."""
    if not path.exists():
        path.mkdir(parents=True)
        os.chown(path, ground.home.owner.pw_uid, ground.home.owner.pw_gid)
    return replace(ground, home=replace(ground.home, path=path))


def cost(ground: Ground, version: int) -> str:
    """What a right build says its layers have cost."""
    done = ground.home.run(*[word for word in ground.words(version) if word != "--quiet"], "--verbose")
    assert done.returncode == 0 and ground.expected[version] in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if "buildpack layers:" in line]
    return line.partition(": ")[2]


def roots(ground: Ground) -> set[int]:
    return {path.stat().st_ino for path in ground.store.glob("roots/*/*") if path.is_dir()}


def test_a_killed_command_leaves_a_store_that_works_and_is_swept(ground: Ground) -> None:
    killer = Killer(ground, seed=1)
    killer.run(1)
    assert killer.killed == len(KINDS)


def test_a_build_is_over_and_its_pipes_are_closed_before_what_it_replaced_is_removed(ground: Ground) -> None:
    ground.build(0)
    for directory in ground.store.glob("kept/*/[!.]*/layers/*/*/bin"):
        for number in range(20_000):
            (directory / f"{number}").touch()
    before = afterwards.removers(ground.store)
    done = ground.home.run(*ground.words(1))
    process = afterwards.remover(ground.store, beside=before)
    assert (done.returncode, done.stdout.strip()) == (0, ground.expected[1]), done.stderr
    assert list(ground.store.glob("kept/*/.*"))
    ground.build(2)
    ground.home.ok("gc")
    assert list(ground.store.glob("kept/*/.*")) == []
    assert linux.gone({process})
    assert ground.leftovers() == []


def test_trees_of_subordinate_ids_are_removed_when_a_command_is_over(ground: Ground) -> None:
    ground.build(0)
    before = roots(ground)
    ground.home.ok("copy", f"oci:{ground.folder}/builder:{RUN}", BUILDER)
    assert ground.leftovers() == []
    assert roots(ground) < before
    ground.stock()


@pytest.mark.parametrize(
    ("command", "action", "ever"),
    first_in_test(
        [
            ("build", errno.ENOSPC, True),
            ("build", errno.EIO, False),
            ("build", KILL, False),
            ("cold", errno.EDQUOT, False),
            ("copy", errno.ENOSPC, False),
            ("gc", errno.EIO, False),
        ]
    ),
)
def test_a_call_that_fails_is_told_and_harms_nothing(
    ground: Ground, injector: Injector, command: str, action: int | str, ever: bool
) -> None:
    faults = Faults(ground, injector, seed=1)
    faults.run(command, 1, action, ever=ever, reads=action == errno.EIO)
    assert sum(faults.counts.values()) == 1
    assert faults.odd == []


@pytest.mark.torture
def test_commands_at_once_are_all_right(ground: Ground, injector: Injector) -> None:
    assert len(Crowds(ground, injector).run(3)) == 6


@pytest.mark.torture
@pytest.mark.parametrize("what", ["power", "full"])
def test_a_disk_that_loses_its_power_or_is_full_does_not_make_a_wrong_image(what: str, program: Path) -> None:
    words = [sys.executable, "-m", "torture", what, "--rounds", "1", "--user", RANGE]
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("src", "tests"))
    done = subprocess.run(
        [*words, "--program", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_moved_store_keeps_its_trees(ground: Ground, tmp_path: Path) -> None:
    first = at(ground, ground.folder.parent / "first")
    first.stock()
    first.build(1)
    before = roots(first)
    moved = at(ground, first.home.path.rename(first.home.path.with_name("moved")))
    assert cost(moved, 1) == KEPT
    assert roots(moved) == before
    moved.assert_whole()


@pytest.mark.torture
@pytest.mark.parametrize("how", ["cp -a", "cp -r", "tar"])
def test_a_copied_store_makes_the_same_image(ground: Ground, how: str) -> None:
    ground.build(1)
    afterwards.settled(ground.store)
    copy = at(ground, ground.folder.parent / how.replace(" ", ""))
    if how == "tar":
        archive = ground.folder.parent / "store.tar"
        subprocess.run(["tar", "-cf", archive, "-C", ground.home.path, "store"], check=True)
        subprocess.run(["tar", "-xpf", archive, "-C", copy.home.path], check=True)
    else:
        subprocess.run([*how.split(), ground.store, copy.home.path], check=True)
    if how == "cp -r":  # of everything a new owner, as an ordinary user's copy would have
        owner = ground.home.owner
        subprocess.run(["chown", "-R", f"{owner.pw_uid}:{owner.pw_gid}", copy.store], check=True)
    # What was kept is hashed once, and is what it was; roots are made anew.
    assert cost(copy, 1) == KEPT
    assert copy.home.ok("run", "app") == "version 1"
    copy.assert_whole()
    copy.assert_trees()
    copy.home.ok("gc")
    assert copy.leftovers() == []


def test_a_store_may_be_at_any_path(ground: Ground) -> None:
    there = at(ground, ground.folder.parent / "with space,comma:colon=\\back'quote\"new\nline%s$x")
    there.stock()
    there.build(0)
    there.build(1)
    assert there.home.ok("run", "app") == "version 1"


def test_a_path_that_is_too_long_to_be_mounted_is_told(ground: Ground) -> None:
    long = at(ground, ground.folder.parent.joinpath(*["x" * 200] * 4))
    long.stock()
    long.build(0)
    long.build(1)
    assert long.home.ok("run", "app") == "version 1"
    longer = at(ground, ground.folder.parent.joinpath(*["x" * 200] * 5))
    longer.stock()
    done = longer.home.run(*longer.words(0))
    assert done.returncode == 6
    assert "the path of the store is too long" in done.stderr and "PACKHORSE_HOME" in done.stderr
    assert "packhorse.local/torture/builder" in longer.home.ok("images")
    shutil.rmtree(ground.folder.parent / ("x" * 200))


def test_a_store_on_another_file_system_works(ground: Ground, tmp_path: Path) -> None:
    there = at(ground, ground.folder.parent / "mounted")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", there.home.path], check=True)
    try:
        os.chown(there.home.path, ground.home.owner.pw_uid, ground.home.owner.pw_gid)
        there.stock()
        there.build(0)
        there.build(1)
        assert there.home.ok("run", "app") == "version 1"
        there.assert_whole()
    finally:
        afterwards.unmount(there.home.path)


def test_a_store_that_no_overlay_can_write_to_has_builds_and_runs_nothing(ground: Ground) -> None:
    """An overlay cannot be the upper of another: as in a container whose volume was forgotten."""
    top = ground.folder.parent / "overlay"
    for name in ("lower", "upper", "work"):
        at(ground, top / name)
    there = at(ground, top / "home")
    options = f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", there.home.path], check=True)
    try:
        os.chown(there.home.path, ground.home.owner.pw_uid, ground.home.owner.pw_gid)
        there.stock()
        for version in (0, 1, 1):
            there.build(version)
        done = there.home.run("run", "app")
        assert done.returncode == 125
        assert "packhorse doctor overlay" in done.stderr
        assert "put the store on ext4" in there.home.run("doctor", "overlay").stdout
        there.assert_whole()
    finally:
        afterwards.unmount(there.home.path)


def test_a_store_of_another_user_is_refused(ground: Ground) -> None:
    done = replace(ground.home, owner=pwd.getpwuid(0)).run("images")
    assert done.returncode == 6
    assert "belongs to another user" in done.stderr
