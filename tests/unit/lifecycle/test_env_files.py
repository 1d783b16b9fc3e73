"""Which files of env directories are variables, whatever a buildpack leaves there."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import BuildError, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.buildpacks import env_files, with_layer
from packhorse.spec.env import EnvFile


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "layer" / "env").mkdir(parents=True)
    return tmp_path / "layer"


def found(layer: Path) -> list[EnvFile]:
    with RootedTree.open_local(layer.parent) as tree:
        return env_files(tree, "/layer/env")


def test_a_directory_that_is_not_there_has_none(layer: Path) -> None:
    (layer / "env").rmdir()
    assert found(layer) == []


def test_files_and_links_to_files_inside_are_variables(layer: Path) -> None:
    (layer / "env" / "A").write_bytes(b"\xff\n")
    (layer / "env" / "B").symlink_to("A")
    (layer / "env" / "C").symlink_to("/layer/env/A")
    (layer / "env" / "directory").mkdir()
    (layer / "env" / "dangling").symlink_to("/etc/hostname")
    (layer / "env" / "to-directory").symlink_to("directory")
    assert found(layer) == [EnvFile(name, "\udcff\n") for name in "ABC"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("X", b"a\0b", "its content has a NUL byte"), ("X=Y", b"", "its name has a '='")],
)
def test_what_no_process_can_have_is_refused_by_name(
    layer: Path, name: str, content: bytes, reason: str
) -> None:
    (layer / "env" / name).write_bytes(content)
    with pytest.raises(BuildError) as raised:
        found(layer)
    assert (raised.value.what, raised.value.why) == (
        f"/layer/env/{name} cannot be an environment variable",
        reason,
    )


def test_a_value_that_is_too_large_is_refused(layer: Path) -> None:
    (layer / "env" / "X").write_bytes(b"x" * ((1 << 20) + 1))
    with pytest.raises(TreeError, match="too large"):
        found(layer)


def test_a_link_in_place_of_a_directory_is_followed_inside_only(layer: Path) -> None:
    (layer / "real").mkdir()
    (layer / "bin").symlink_to("real")
    (layer / "lib").symlink_to("/usr")
    with RootedTree.open_local(layer.parent) as tree:
        assert with_layer(tree, {}, "/layer") == {"PATH": "/layer/bin"}
