"""Mount points are found through the links of a root file system, and made where it has none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.errors import SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.sandbox.mounts import FIXED, make_mount_points, resolve_target


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "etc").mkdir(parents=True)
    (directory / "var").mkdir()
    return directory


@pytest.fixture
def tree(root: Path) -> Iterator[RootedTree]:
    with RootedTree.open_local(root) as rooted:
        yield rooted


def test_what_is_missing_is_taken_as_it_is_written(tree: RootedTree) -> None:
    assert resolve_target(tree, "/cnb/buildpacks/a/1.0") == "/cnb/buildpacks/a/1.0"
    assert resolve_target(tree, "/etc//hosts/.") == "/etc/hosts"


def test_a_mount_goes_to_where_links_lead_inside(tree: RootedTree, root: Path) -> None:
    (root / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (root / "var" / "run").symlink_to("/run")
    assert resolve_target(tree, "/etc/resolv.conf") == "/run/systemd/resolve/stub-resolv.conf"
    assert resolve_target(tree, "/var/run/lock/a") == "/run/lock/a"


def test_a_link_out_of_the_tree_stays_in_it(tree: RootedTree, root: Path) -> None:
    (root / "app").symlink_to("../../../../../../home")
    assert resolve_target(tree, "/app/x") == "/home/x"


def test_links_in_a_circle_are_an_error(tree: RootedTree, root: Path) -> None:
    (root / "a").symlink_to("/b")
    (root / "b").symlink_to("/a")
    with pytest.raises(SandboxError, match="/a/x"):
        resolve_target(tree, "/a/x")


@pytest.mark.parametrize("link", ["/proc/1/root/oldroot/home", "dev/fd/3", "/etc/../proc/self/cwd"])
def test_no_mount_goes_below_the_kernels_directories(tree: RootedTree, root: Path, link: str) -> None:
    (root / "app").symlink_to(link)
    with pytest.raises(SandboxError, match="nothing can be mounted at /app/x"):
        resolve_target(tree, "/app/x")
    assert resolve_target(tree, "/dev/shm") == "/dev/shm"


@pytest.mark.parametrize("name", FIXED)
def test_the_kernels_directories_are_where_they_belong(tree: RootedTree, root: Path, name: str) -> None:
    assert resolve_target(tree, name) == name
    (root / name.lstrip("/")).symlink_to("/oldroot/home")
    with pytest.raises(SandboxError, match=f"its {name} is a link"):
        resolve_target(tree, name)


def test_mount_points_are_empty_and_open_to_all_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_mount_points(
            tmp_path / "points",
            directories=["/proc", "/cnb/buildpacks/a"],
            files=["/etc/hosts"],
            owner=(os.getuid(), os.getgid()),
        )
    finally:
        os.umask(before)
    found = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o7777 for path in tmp_path.rglob("*")}
    assert found == {
        "points": 0o755,
        "points/proc": 0o755,
        "points/cnb": 0o755,
        "points/cnb/buildpacks": 0o755,
        "points/cnb/buildpacks/a": 0o755,
        "points/etc": 0o755,
        "points/etc/hosts": 0o644,
    }
