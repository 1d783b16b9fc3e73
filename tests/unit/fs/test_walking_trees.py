"""The walk that everything uses which reads, copies, compares or removes a tree below a descriptor."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from fakes.small_tree import nest
from packhorse.errors import TreeError
from packhorse.fs import walk as entries


def _open_below(top: Path) -> list[str]:
    """The open files and directories at `top` and below it; what other tests left open does not count."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by now, as the one that lists them is
            found.append(os.readlink(link))
    return [path for path in found if path.startswith(str(top))]


def test_a_directory_is_visited_before_and_after_its_entries_and_a_link_is_not_followed(
    tmp_path: Path,
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    (tmp_path / "a" / "b" / "link").symlink_to(tmp_path / "outside")
    with entries.closing(os.open(tmp_path, os.O_RDONLY)) as top, entries.Walk(top, ["a"]) as walk:
        visits = [(name, is_done) for _, name, _, is_done in walk]
    assert visits[:2] == [("a", False), ("b", False)]
    assert sorted(visits[2:4]) == [("file", False), ("link", False)]
    assert visits[4:] == [("b", True), ("a", True)]


def test_a_skipped_directory_is_neither_entered_nor_visited_again(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    visits = []
    with entries.closing(os.open(tmp_path, os.O_RDONLY)) as top, entries.Walk(top) as walk:
        for _, name, _, is_done in walk:
            visits.append((name, is_done))
            walk.skip()
    assert visits == [("a", False)]


def test_a_link_put_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    with (
        entries.closing(os.open(tmp_path, os.O_RDONLY)) as top,
        entries.Walk(top, ["tree"]) as walk,
        pytest.raises(NotADirectoryError),
    ):
        for _ in walk:
            (tmp_path / "tree").rmdir()
            (tmp_path / "tree").symlink_to("outside")


@pytest.mark.parametrize("missing_ok", [True, False])
def test_entries_that_go_meanwhile_are_passed_over_where_that_is_asked_for(
    tmp_path: Path, missing_ok: bool
) -> None:
    (tmp_path / "a").mkdir()
    with (
        entries.closing(os.open(tmp_path, os.O_RDONLY)) as top,
        entries.Walk(top, ["a", "b"], missing_ok=missing_ok) as walk,
    ):
        visits = []
        try:
            for _, name, _, is_done in walk:
                visits.append((name, is_done))
                (tmp_path / "a").rmdir()
        except FileNotFoundError:
            assert not missing_ok
        else:
            assert missing_ok
    assert visits == [("a", False)]


def test_a_tree_without_end_is_refused_and_every_descriptor_closed(tmp_path: Path) -> None:
    nest(tmp_path, 1500)
    with entries.closing(os.open(tmp_path, os.O_RDONLY)) as top:
        assert _open_below(tmp_path) == [str(tmp_path)]
        with pytest.raises(TreeError, match="nested more than 300 deep"), entries.Walk(top) as walk:
            deepest = 0
            for _ in walk:
                deepest = max(deepest, walk.depth)
        assert deepest == entries.DEEPEST
        entries.remove(top, "d")
    assert _open_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
