"""How many buildpacks' directories are mounted: one by one as long as they are few."""

from __future__ import annotations

import os
from pathlib import Path

from packhorse.base.step import Bind, Overlay
from packhorse.platform.together import FEW, PLACE, together


def binds(folder: Path, count: int) -> list[Bind]:
    found = []
    for number in range(count):
        source = folder / f"source-{number}"
        source.mkdir(parents=True)
        (source / "buildpack.toml").write_text(str(number))
        found.append(Bind(source, f"{PLACE}/a_{number}/1"))
    return found


def builder(folder: Path) -> Path:
    (folder / "root" / PLACE.lstrip("/")).mkdir(parents=True)
    return folder / "root"


def test_few_are_mounted_one_by_one(tmp_path: Path) -> None:
    few = binds(tmp_path, FEW)
    assert together(few, builder(tmp_path), tmp_path) == tuple(few)


def test_many_small_ones_are_one_mount(tmp_path: Path) -> None:
    root = builder(tmp_path)
    (mount,) = together(binds(tmp_path, FEW + 1), root, tmp_path)
    assert isinstance(mount, Overlay)
    assert (mount.target, mount.upper, mount.lowers[0]) == (PLACE, None, root / "cnb/buildpacks")
    assert (mount.lowers[1] / f"a_{FEW}/1/buildpack.toml").read_text() == str(FEW)


def test_a_large_one_is_not_copied(tmp_path: Path) -> None:
    many = binds(tmp_path, FEW + 1)
    (many[0].source / "large").write_bytes(bytes(2 << 20))
    overlay, other = together(many, builder(tmp_path), tmp_path)
    assert isinstance(overlay, Overlay)
    assert other == many[0]
    assert list((overlay.lowers[1] / "a_0/1").iterdir()) == []


def test_one_that_cannot_be_copied_is_not(tmp_path: Path) -> None:
    many = binds(tmp_path, FEW + 1)
    os.mkfifo(many[1].source / "pipe")
    _, other = together(many, builder(tmp_path), tmp_path)
    assert other == many[1]


def test_where_the_builder_has_one_behind_a_link_all_are_mounted_one_by_one(tmp_path: Path) -> None:
    root = builder(tmp_path)
    (root / "cnb/buildpacks/a_0").symlink_to("/opt")
    many = binds(tmp_path, FEW + 1)
    assert together(many, root, tmp_path) == tuple(many)


def test_the_last_of_one_name_counts(tmp_path: Path) -> None:
    many = binds(tmp_path, FEW + 1)
    again = Bind(many[1].source, many[0].target)
    (mount,) = together([*many, again], builder(tmp_path), tmp_path)
    assert isinstance(mount, Overlay)
    assert (mount.lowers[1] / "a_0/1/buildpack.toml").read_text() == "1"


def test_a_builder_that_has_its_buildpacks_behind_a_link_has_them_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "root/opt").mkdir(parents=True)
    (tmp_path / "root/cnb").symlink_to("opt")
    many = binds(tmp_path, FEW + 1)
    assert together(many, tmp_path / "root", tmp_path) == tuple(many)
