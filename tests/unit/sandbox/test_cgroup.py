"""Where a control group can be made, on machines as they are found."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from packhorse.sandbox import cgroup
from packhorse.sandbox.cgroup import Parent, parents

V2_MOUNT = "30 24 0:27 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


def v1_mount(mount: Path, options: str, root: str = "/") -> str:
    return f"31 24 0:28 {root} {mount} rw,nosuid shared:9 - cgroup cgroup rw,{options}"


def unified(directory: Path, *, offers: str = "", **limits: str) -> Path:
    """A group of version 2."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.subtree_control").write_text(f"{offers}\n")
    (directory / "cgroup.procs").touch()
    for name, value in limits.items():
        (directory / f"{name}.max").write_text(f"{value}\n")
    return directory


def test_version_1_has_a_group_below_the_own_one_in_each_hierarchy(tmp_path: Path) -> None:
    for name in ("pids", "memory"):
        (tmp_path / name / "user" / "x").mkdir(parents=True)
    mounts = "\n".join(
        v1_mount(tmp_path / name, options) for name, options in (("pids", "pids"), ("memory", "memory"))
    )
    found = parents("9:name=systemd:/\n8:pids:/user/x\n4:memory:/user/x\n0::/\n", mounts)
    assert found == {
        "pids": Parent(tmp_path / "pids/user/x", unified=False),
        "memory": Parent(tmp_path / "memory/user/x", unified=False),
    }


def test_controllers_may_share_a_hierarchy_whose_path_has_a_space(tmp_path: Path) -> None:
    (tmp_path / "a b" / "own").mkdir(parents=True)
    mount = v1_mount(tmp_path, "cpu,memory").replace(str(tmp_path), str(tmp_path / "a\\040b"))
    assert list(parents("4:cpu,memory:/own\n", mount)) == ["memory"]


def test_in_a_container_paths_are_taken_from_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    mount = v1_mount(tmp_path, "pids", root="/docker/abc")
    assert parents("8:pids:/docker/abc/inner\n", mount)["pids"].directory == tmp_path / "inner"
    assert parents("8:pids:/docker/abcdef\n", mount) == {}


def test_version_2_goes_up_to_where_the_controllers_are_handed_down(tmp_path: Path) -> None:
    top = unified(tmp_path, offers="cpu memory pids")
    unified(top / "user", offers="memory pids", memory="max", pids="max")
    scope = unified(top / "user" / "app" / "scope", memory="4000", pids="50")
    unified(scope.parent, offers="memory", memory="3000", pids="70")
    found = parents("0::/user/app/scope\n", V2_MOUNT.format(root="/", mount=tmp_path))
    assert found == {
        "memory": Parent(top / "user" / "app", unified=True, ceiling=4000),
        "pids": Parent(top / "user", unified=True, ceiling=50),
    }


def test_version_2_has_none_for_a_user_whose_session_is_the_systems(tmp_path: Path) -> None:
    top = unified(tmp_path, offers="memory pids")
    unified(top / "session")
    (top / "cgroup.procs").chmod(0o444)
    found = parents("0::/session\n", V2_MOUNT.format(root="/", mount=tmp_path))
    assert found == {} or os.geteuid() == 0


def test_a_hybrid_has_its_controllers_in_version_1(tmp_path: Path) -> None:
    unified(tmp_path / "unified")
    (tmp_path / "pids").mkdir()
    mounts = "\n".join(
        (V2_MOUNT.format(root="/", mount=tmp_path / "unified"), v1_mount(tmp_path / "pids", "pids"))
    )
    assert parents("8:pids:/\n0::/\n", mounts) == {"pids": Parent(tmp_path / "pids", unified=False)}


def test_a_machine_without_control_groups_has_none() -> None:
    assert parents("", "24 1 8:1 / / rw - ext4 /dev/root rw") == {}


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


@pytest.mark.parametrize(
    ("unified", "file", "value"),
    [(False, "memory.memsw.limit_in_bytes", str(4096 + (1 << 20))), (True, "memory.swap.max", "0")],
)
def test_swap_space_is_no_way_round_a_limit_of_memory(
    tmp_path: Path, unified: bool, file: str, value: str
) -> None:
    """Plain files stand for the kernel's."""
    (tmp_path / "own").mkdir()
    parent = Parent(tmp_path / "own", unified=unified)
    group = cgroup.Group({"memory": parent}, {"memory": 4096}, records=tmp_path / "records", together=True)
    [directory] = (tmp_path / "own").iterdir()
    assert (directory / file).read_text() == value
    shutil.rmtree(directory)
    group.close()
