"""Edits of a rooted tree do what a plain model of a file tree does."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse.base.tree import NodeKind
from packhorse.errors import TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import Extent, IdMap, MapMode

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))
EDITS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.binary(max_size=3)),
    st.tuples(st.just("mkdir"), PATHS),
    st.tuples(st.just("remove"), PATHS),
    st.tuples(st.just("rename"), PATHS, PATHS),
)

Model = dict[str, bytes | None]
"""Every path of the tree, with a file's content, or None for a directory."""


class Refused(Exception):
    """The model's word for what a tree refuses with TreeError."""


def parent(path: str) -> str:
    return path.rpartition("/")[0]


def make(model: Model, path: str) -> None:
    if path == "":
        return
    make(model, parent(path))
    if model.setdefault(path, None) is not None:
        raise Refused


def below(model: Model, path: str) -> list[str]:
    return [name for name in model if name == path or name.startswith(path + "/")]


def apply(model: Model, edit: tuple[object, ...]) -> None:
    """What the ports' docstrings say, on a model; parents that were made stay when the rest is refused."""
    match edit:
        case ("write", str(path), bytes(data)):
            make(model, parent(path))
            if path in model and model[path] is None:
                raise Refused
            model[path] = data
        case ("mkdir", str(path)):
            make(model, path)
        case ("remove", str(path)):
            for name in below(model, path):
                del model[name]
        case ("rename", str(source), str(target)):
            moved = below(model, source)
            above = parent(target)
            if not moved or target in model or target.startswith(source + "/"):
                raise Refused
            if above and model.get(above, b"") is not None:
                raise Refused
            for name in moved:
                model[target + name[len(source) :]] = model.pop(name)


def contents(tree: RootedTree, path: str = "") -> Model:
    found: Model = {}
    for node in tree.list(path or "/"):
        name = f"{path}/{node.name}"
        if node.kind is NodeKind.DIRECTORY:
            found |= {name: None} | contents(tree, name)
        else:
            with tree.open(name) as file:
                found[name] = file.read()
    return found


@pytest.mark.system
@settings(max_examples=150, deadline=None)
@given(st.lists(EDITS, max_size=12))
def test_a_series_of_edits_leaves_what_a_model_has(edits: list[tuple[object, ...]]) -> None:
    model: Model = {}
    with tempfile.TemporaryDirectory() as directory, RootedTree.open_local(directory) as tree:
        for edit in edits:
            refused = False
            try:
                apply(model, edit)
            except Refused:
                refused = True
            verb, *rest = edit
            if refused:
                with pytest.raises(TreeError):
                    getattr(tree, str(verb))(*rest)
            else:
                getattr(tree, str(verb))(*rest)
            assert contents(tree) == model


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with RootedTree.open_local(tmp_path) as tree:
            tree.write("/made/file", b"x", mode=0o664)
            tree.mkdir("/other/last", mode=0o777)
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o7777 for name in ("made", "made/file", "other/last")}
    assert modes == {"made": 0o755, "made/file": 0o664, "other/last": 0o777}


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o711)
    with RootedTree.open_local(tmp_path) as tree:
        tree.mkdir("/there", mode=0o755)
    assert (tmp_path / "there").stat().st_mode & 0o7777 == 0o711


def test_read_only_directories_are_removed(tmp_path: Path) -> None:
    deep = tmp_path / "cache" / "module@v1"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    deep.chmod(0o555)
    (tmp_path / "cache").chmod(0o000)
    with RootedTree.open_local(tmp_path) as tree:
        tree.remove("/cache")
        assert tree.stat("/cache") is None


def test_a_path_that_names_no_entry_is_refused(tmp_path: Path) -> None:
    with RootedTree.open_local(tmp_path) as tree:
        for path in ("/", "", "/a/..", "/.", "/a\0b"):
            with pytest.raises(TreeError):
                tree.write(path, b"")
            with pytest.raises(TreeError):
                tree.remove(path)


def test_names_that_are_no_text_come_in_byte_order(tmp_path: Path) -> None:
    for name in (b"z", b"\xff", b"\xc3\xa9", b"Z"):
        (tmp_path / os.fsdecode(name)).touch()
    with RootedTree.open_local(tmp_path) as tree:
        assert [os.fsencode(node.name) for node in tree.list("/")] == [b"Z", b"z", b"\xc3\xa9", b"\xff"]


def test_owners_are_shown_as_they_are_inside(tmp_path: Path) -> None:
    own = tmp_path.stat()
    known = IdMap(MapMode.SINGLE, (Extent(1000, own.st_uid, 1),), (Extent(1001, own.st_gid, 1),))
    other = IdMap(MapMode.SINGLE, (Extent(1000, own.st_uid + 1, 1),), (Extent(1000, own.st_gid + 1, 1),))
    seen = []
    for idmap in (known, other):
        with RootedTree.open_local(tmp_path, idmap=idmap) as tree:
            node = tree.stat("/")
            assert node is not None
            seen.append((node.uid, node.gid))
    assert seen == [(1000, 1001), (65534, 65534)]


def test_a_tree_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d", 0o555 if os.geteuid() == 0 else 0o755, dir_fd=held)
        inner = os.open("d", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = inner
    os.close(held)
    with RootedTree.open_local(tmp_path) as tree:
        tree.remove("/d")
    assert list(tmp_path.iterdir()) == []
