"""Where a control group can be made, on machines as they are found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from packhorse.sandbox import cgroup
from packhorse.sandbox.cgroup import ParentGroup, nearest_parent, own_group

V2_MOUNT = "30 24 0:27 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def unified(directory: Path, *, offers: str = "", **limits: str) -> Path:
    """A group of version 2."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.subtree_control").write_text(f"{offers}\n")
    (directory / "cgroup.procs").touch()
    for name, value in limits.items():
        (directory / f"{name}.max").write_text(f"{value}\n")
    return directory


def test_a_path_may_have_a_space(tmp_path: Path) -> None:
    own = unified(tmp_path / "a b" / "own", offers="memory pids")
    mount = V2_MOUNT.format(root="/", mount=tmp_path).replace(str(tmp_path), f"{tmp_path}/a\\040b")
    assert own_group("0::/own\n", mount) == (own, tmp_path / "a b")


def test_in_a_container_paths_are_taken_from_what_is_mounted(tmp_path: Path) -> None:
    mount = V2_MOUNT.format(root="/docker/abc", mount=tmp_path)
    assert own_group("0::/docker/abc/inner\n", mount) == (tmp_path / "inner", tmp_path)
    assert own_group("0::/docker/abcdef\n", mount) is None


def test_a_container_is_allowed_what_the_group_that_it_sees_as_its_root_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unified(tmp_path, memory="3000")
    files = {"cgroup": "0::/\n", "mountinfo": V2_MOUNT.format(root="/", mount=tmp_path)}
    monkeypatch.setattr(cgroup, "read_proc", files.__getitem__)
    assert cgroup.memory_allowed() == 3000


def test_a_group_is_made_below_the_nearest_one_that_hands_both_controllers_down(tmp_path: Path) -> None:
    top = unified(tmp_path, offers="cpu memory pids")
    unified(top / "user", offers="memory pids", memory="max", pids="max")
    app = unified(top / "user" / "app", offers="memory", memory="3000", pids="70")
    scope = unified(app / "scope", memory="4000", pids="50")
    assert nearest_parent(scope, tmp_path) == ParentGroup(top / "user", {"memory": 3000, "pids": 50})


def test_there_is_none_for_a_user_whose_session_is_the_systems(tmp_path: Path) -> None:
    top = unified(tmp_path, offers="memory pids")
    session = unified(top / "session")
    (top / "cgroup.procs").chmod(0o444)
    assert nearest_parent(session, tmp_path) is None or os.geteuid() == 0


def test_a_hybrid_hands_no_controllers_down(tmp_path: Path) -> None:
    unified(tmp_path / "unified")
    mounts = [
        V2_MOUNT.format(root="/", mount=tmp_path / "unified"),
        f"31 24 0:28 / {tmp_path}/pids rw,nosuid shared:9 - cgroup cgroup rw,pids",
    ]
    own, mounted = own_group("8:pids:/\n0::/\n", "\n".join(mounts)) or pytest.fail("it has one")
    assert own == mounted == tmp_path / "unified"
    assert nearest_parent(own, mounted) is None


def test_a_machine_without_control_groups_has_none() -> None:
    assert own_group("", "24 1 8:1 / / rw - ext4 /dev/root rw") is None


@pytest.mark.parametrize("maker", ["1-1", "999999999-5"])
def test_what_a_dead_maker_left_is_removed(tmp_path: Path, maker: str) -> None:
    name = f"packhorse-{maker}-abcd"
    group, other = (tmp_path / "groups" / each for each in (name, "other"))
    group.mkdir(parents=True)
    other.mkdir()
    record = tmp_path / "records" / name
    record.parent.mkdir()
    record.write_text(f"{group}\n{other}\n{tmp_path}/never-made/{name}\n")
    cgroup.sweep(record.parent)
    assert not group.exists()
    assert other.exists(), "no group of the record's"
    assert not record.exists()


def test_what_cannot_be_removed_yet_stays_noted(tmp_path: Path) -> None:
    name = "packhorse-999999999-5-abcd"
    (tmp_path / "groups" / name / "busy").mkdir(parents=True)
    record = tmp_path / "records" / name
    record.parent.mkdir()
    record.write_text(f"{tmp_path}/groups/{name}\n")
    cgroup.sweep(record.parent)
    assert record.exists()


def test_there_may_be_nothing_to_sweep(tmp_path: Path) -> None:
    cgroup.sweep(tmp_path / "none")


def test_swap_space_is_no_way_round_a_limit_of_memory(tmp_path: Path) -> None:
    """Plain files stand for the kernel's."""
    (tmp_path / "own").mkdir()
    parent = ParentGroup(tmp_path / "own", {"memory": 8192, "pids": 0})
    group = cgroup.Group(parent, {"memory": 4096}, records=tmp_path / "records", together=True)
    [directory] = (tmp_path / "own").iterdir()
    assert {file.name: file.read_text() for file in directory.iterdir()} == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }
    shutil.rmtree(directory)
    group.close()
