"""How an application directory is divided, beyond what the reference's figures show."""

from __future__ import annotations

import inspect
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.errors import FormatError
from packhorse.fs.rooted import RootedTree
from packhorse.tar.slices import _compile, divide

_DEEP = 150


def test_directories_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    (tmp_path / "app" / "/".join("d" * _DEEP)).mkdir(parents=True)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + _DEEP - 20)
    try:
        with RootedTree.open_local(tmp_path) as tree:
            first, rest = divide(tree, "/app", [["d/d"]])
    finally:
        sys.setrecursionlimit(before)
    assert len(list(first.entries)) == _DEEP + 1
    assert rest.entries == ()


@pytest.mark.parametrize("slices", [[], [[]], [["nothing"]], [[], ["nothing", "neither"]]])
def test_what_is_left_is_in_byte_order_of_whole_paths(tmp_path: Path, slices: list[list[str]]) -> None:
    names = [
        "a/x/y",
        "a/x.y",
        "a/x-y",
        "a-b",
        "a.b/c",
        "a0",
        "a b",
        "é/1",
        "é-",
        "\udcff/2",
        "\udcff-",
        "z/\udcfe",
    ]
    for name in names:
        (tmp_path / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "app" / name).touch()
    with RootedTree.open_local(tmp_path) as tree:
        *divided, rest = divide(tree, "/app", slices)
        assert [tuple(one.entries) for one in divided] == [()] * len(slices)
        paths = [path for path, _ in rest.entries]
        assert paths == sorted(paths, key=os.fsencode)
        assert set(names) < set(paths) and len(paths) == len(set(paths)) == len(names) + 7
        assert [path for path, _ in rest.entries] == paths


def test_what_is_no_directory_is_no_application(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with RootedTree.open_local(tmp_path) as tree:
        for path in ("/none", "/file"):
            with pytest.raises(FormatError, match="is not a directory"):
                divide(tree, path, [])


def test_many_stars_take_no_longer_than_one() -> None:
    assert _compile("*a" * 60 + "*b").fullmatch("a" * 250) is None
    assert _compile("*a" * 60 + "*b").fullmatch("a" * 250 + "b")


@given(st.text("a*?", max_size=8), st.text("ab", max_size=12))
def test_stars_and_question_marks_match_as_everywhere(glob: str, name: str) -> None:
    assert bool(_compile(glob or "?").fullmatch(name)) == fnmatchcase(name, glob or "?")


@given(st.lists(st.text("ab", min_size=1, max_size=3)), st.lists(st.text("ab*", min_size=1, max_size=3)))
def test_no_star_goes_past_a_slash(names: list[str], globs: list[str]) -> None:
    matched = _compile("/".join(["x", *globs])).fullmatch("/".join(["x", *names])) is not None
    assert matched == (len(names) == len(globs) and all(map(fnmatchcase, names, globs)))
