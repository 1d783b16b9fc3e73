"""A command is looked for as the kernel and docker do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.errors import CommandNotFound, NotExecutable
from packhorse.fs.rooted import RootedTree
from packhorse.sandbox.init import check_executable


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[RootedTree]:
    for directory in ("bin", "usr/bin", "app"):
        (tmp_path / directory).mkdir(parents=True)
    for path, mode in (
        ("usr/bin/tool", 0o755),
        ("bin/data", 0o644),
        ("usr/bin/data", 0o755),
        ("app/run", 0o755),
    ):
        (tmp_path / path).write_text("#!/bin/sh\n")
        (tmp_path / path).chmod(mode)
    (tmp_path / "bin" / "linked").symlink_to("/usr/bin/tool")
    (tmp_path / "bin" / "broken").symlink_to("/usr/bin/none")
    with RootedTree.open_local(tmp_path) as rooted:
        yield rooted


@pytest.mark.parametrize("name", ["tool", "data", "linked", "/usr/bin/tool", "./run", "../bin/linked"])
def test_a_command_that_exists_is_let_pass(tree: RootedTree, name: str) -> None:
    check_executable(tree, name, cwd="/app", env={"PATH": "/bin:/usr/bin"})


@pytest.mark.parametrize("name", ["none", "broken", "run", "/usr/bin/none", "./tool"])
def test_a_command_that_does_not_exist_is_named_with_the_path(tree: RootedTree, name: str) -> None:
    with pytest.raises(CommandNotFound, match=name) as caught:
        check_executable(tree, name, cwd="/app", env={"PATH": "/bin:/usr/bin"})
    assert ("--entrypoint launcher" in caught.value.fix) == ("/" not in name)


@pytest.mark.parametrize("name", ["/bin/data", "/bin", "data"])
def test_a_file_without_the_permission_and_a_directory_are_not_executable(
    tree: RootedTree, name: str
) -> None:
    with pytest.raises(NotExecutable):
        check_executable(tree, name, cwd="/", env={"PATH": "/bin"})


def test_without_a_path_the_system_directories_are_searched(tree: RootedTree) -> None:
    check_executable(tree, "tool", cwd="/", env={})
