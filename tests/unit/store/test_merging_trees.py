"""Laying trees over each other, against a model in which a tree is a dictionary.

Documentation/filesystems/overlayfs, "whiteouts and opaque directories": "A whiteout is created as a character
device with 0/0 device number"; "When a whiteout is found in the upper level of a merged directory, any
matching name in the lower level is ignored, and the whiteout itself is also hidden." "A directory is made
opaque by setting the xattr overlay.opaque to y. Where the upper filesystem contains an opaque directory, any
directory in the lower filesystem with the same name is ignored."
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.small_tree import nest
from packhorse.errors import TreeError
from packhorse.fs import overlay, walk

Tree = dict[str, "str | bytes | Tree | None"]
"""A directory: text is a link's target, bytes a file's, None a whiteout; the key "!" marks an opaque
directory.
"""

NAMES = st.sampled_from(["a", "b", "c", "ö\udcff"])


def trees(whiteouts: bool) -> st.SearchStrategy[Tree]:
    leaves = [st.binary(max_size=3), st.sampled_from(["a", "/etc", "../.."])]
    if whiteouts:
        leaves.append(st.none())

    def directory(inner: st.SearchStrategy) -> st.SearchStrategy:
        plain = st.dictionaries(NAMES, inner, max_size=3)
        if not whiteouts:
            return plain
        return st.tuples(plain, st.booleans()).map(lambda pair: pair[0] | ({"!": b""} if pair[1] else {}))

    return st.dictionaries(NAMES, st.recursive(st.one_of(leaves), directory, max_leaves=12), max_size=4)


def laid(source: Tree, target: Tree) -> Tree:
    result = {} if "!" in source else dict(target)
    for name, value in source.items():
        if name == "!":
            continue
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            below = result.get(name)
            result[name] = laid(value, below if isinstance(below, dict) else {})
        else:
            result[name] = value
    return result


def write(directory: Path, tree: Tree) -> None:
    for name, value in tree.items():
        path = directory / name
        if name == "!":
            os.setxattr(directory, overlay.OPAQUE, b"y")
        elif value is None:
            os.mknod(path, stat.S_IFCHR)
        elif isinstance(value, dict):
            path.mkdir()
            write(path, value)
            path.chmod(0o500 if len(value) % 2 else 0o755)
        elif isinstance(value, str):
            path.symlink_to(value)
        else:
            path.write_bytes(value)


def read(directory: Path) -> Tree:
    tree: Tree = {}
    for entry in directory.iterdir():
        if entry.is_symlink():
            tree[entry.name] = str(entry.readlink())
        elif entry.is_dir():
            tree[entry.name] = read(entry)
        else:
            assert entry.is_file()
            tree[entry.name] = entry.read_bytes()
    return tree


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@settings(max_examples=60, deadline=None)
@given(lower=trees(whiteouts=False), upper=trees(whiteouts=True))
def test_a_merged_tree_is_what_an_overlay_shows(lower: Tree, upper: Tree) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source, target = Path(temporary, "source"), Path(temporary, "target")
        for path, tree in ((source, upper), (target, lower)):
            path.mkdir()
            write(path, tree)
        with opened(source) as over, opened(target) as below:
            overlay.apply_tree(over, below)
        assert read(target) == laid({key: value for key, value in upper.items() if key != "!"}, lower)
        with opened(Path(temporary)) as parent:
            walk.remove(parent, "source")
            walk.remove(parent, "target")


def test_files_are_shared_and_directories_have_the_mode_and_time_of_the_topmost(tmp_path: Path) -> None:
    for name, mode in (("low", 0o711), ("high", 0o550)):
        (tmp_path / name / "d").mkdir(parents=True)
        (tmp_path / name / "d" / name).write_text(name)
        (tmp_path / name / "d").chmod(mode)
        os.utime(tmp_path / name / "d", ns=(5, 7_000_000_001 if name == "high" else 3))
    (tmp_path / "root").mkdir()
    with opened(tmp_path / "root") as root:
        for name in ("low", "high"):
            with opened(tmp_path / name) as layer:
                overlay.apply_tree(layer, root)
    directory = (tmp_path / "root" / "d").stat()
    assert (stat.S_IMODE(directory.st_mode), directory.st_mtime_ns) == (0o550, 7_000_000_001)
    assert (tmp_path / "root/d/low").stat().st_ino == (tmp_path / "low/d/low").stat().st_ino


def test_a_link_in_the_way_of_a_directory_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "lib").symlink_to(outside)
    (tmp_path / "layer" / "lib").mkdir(parents=True)
    (tmp_path / "layer" / "lib" / "file").write_text("")
    with opened(tmp_path / "layer") as layer, opened(tmp_path / "root") as root:
        overlay.apply_tree(layer, root)
    assert list(outside.iterdir()) == []
    assert read(tmp_path / "root") == {"lib": {"file": b""}}


def test_removal_follows_no_link_and_counts_only_what_has_no_other_name(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(bytes(100_000))
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    os.link(outside / "precious", tree / "second-name")
    with opened(tmp_path) as parent:
        shared = walk.remove(parent, "tree")
        assert (outside / "precious").exists()
        assert shared < 100_000 < walk.remove(parent, "outside")
        assert walk.remove(parent, "tree") == 0


def test_a_tree_of_any_depth_is_removed_though_it_cannot_be_merged(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "target").mkdir()
    nest(tmp_path / "deep", 1500)
    with opened(tmp_path) as parent, opened(tmp_path / "deep") as deep, opened(tmp_path / "target") as target:
        with pytest.raises(TreeError, match="nested"):
            overlay.apply_tree(deep, target)
        walk.remove(parent, "deep")
        walk.remove(parent, "target")
    assert list(tmp_path.iterdir()) == []


def test_directories_without_permissions_are_removed(tmp_path: Path) -> None:
    (tmp_path / "work" / "work").mkdir(parents=True)
    (tmp_path / "work" / "work").chmod(0)
    (tmp_path / "work").chmod(0o555)
    with opened(tmp_path) as parent:
        walk.remove(parent, "work")
    assert list(tmp_path.iterdir()) == []


SWAP = """
import os, sys
print("ready", flush=True)
while True:
    for make in (lambda: os.mkdir("d", 0), lambda: os.rename("d", "e"), lambda: os.symlink("../outside", "d"),
                 lambda: os.unlink("d"), lambda: os.rmdir("e")):
        try:
            make()
        except OSError:
            pass
"""


@pytest.mark.system
def test_removal_opens_nothing_that_a_link_leads_to_which_is_put_in_the_way(tmp_path: Path) -> None:
    """A killed command's step may still be dying when the next one sweeps up."""
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir(mode=0o755)
    tree.mkdir()
    with subprocess.Popen([sys.executable, "-c", SWAP], cwd=tree, stdout=subprocess.PIPE) as swapping:
        assert swapping.stdout is not None and swapping.stdout.readline()
        with opened(tree) as directory:
            for _ in range(100_000):
                with suppress(OSError):
                    walk.remove(directory, "d")
        swapping.kill()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o755


def test_a_former_upper_keeps_nothing_that_only_an_overlay_understands(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    (layer / "d").mkdir(parents=True)
    os.mknod(layer / "d" / "gone", stat.S_IFCHR)
    (layer / "f").write_text("content")
    for path in (layer, layer / "d", layer / "f"):
        os.setxattr(path, "user.overlay.origin", b"x")
        os.setxattr(path, "user.mine", b"x")
    (layer / "f").chmod(0o444)
    with opened(tmp_path) as parent:
        overlay.strip_overlay_xattrs(parent, "layer")
    assert read(layer) == {"d": {}, "f": b"content"}
    for path in (layer, layer / "d", layer / "f"):
        assert os.listxattr(path) == ["user.mine"]
    assert stat.S_IMODE((layer / "f").stat().st_mode) == 0o444
