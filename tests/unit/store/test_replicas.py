"""Copies of kept trees: whole, of their own, and signed so that any write to them shows."""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.small_tree import nest
from packhorse.errors import TreeError
from packhorse.fs import copy, overlay


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of each kind, below `from`."""
    top = tmp_path / "from" / "tree"
    (top / "shut").mkdir(parents=True)
    (top / "empty").touch()
    (top / "large").write_bytes(os.urandom(3 << 20))
    with (top / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (top / "program").write_text("#!/bin/sh\n")
    (top / "program").chmod(0o4755)
    (top / "secret").write_text("x")
    (top / "secret").chmod(0o400)
    (top / "link").symlink_to("/etc/shadow")
    (top / "dangling").symlink_to("no/such")
    os.mkfifo(top / "pipe", 0o640)
    (top / "twin").write_text("twin")
    (top / "shut" / "twin").hardlink_to(top / "twin")
    (top / "shut").chmod(0o555)
    os.utime(top / "program", ns=(1, 1_000_000_007))
    os.utime(top, ns=(2, 2_000_000_003))
    return top


def copied(tree: Path) -> Path:
    target = tree.parent.parent / "to"
    target.mkdir(exist_ok=True)
    with overlay.open_directory(tree.parent) as source, overlay.open_directory(target) as made:
        copy.copy_entry(source, tree.name, made)
    return target / tree.name


def looks(tree: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        found[str(path.relative_to(tree))] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


def signature(tree: Path) -> copy.Signature:
    with overlay.open_directory(tree.parent) as parent:
        return copy.signature(parent, tree.name)


def test_a_copy_is_whole(tree: Path) -> None:
    assert looks(copied(tree)) == looks(tree)


def test_what_is_written_to_a_copy_is_not_in_what_it_was_made_of(tree: Path) -> None:
    before, copy = looks(tree), copied(tree)
    inodes = {path.lstat().st_ino for path in tree.rglob("*")}
    assert not inodes & {path.lstat().st_ino for path in copy.rglob("*")}
    for name in ("large", "twin", "empty"):
        (copy / name).write_text("other")
    assert looks(tree) == before


def _mapped(tree: Path) -> None:
    with (tree / "large").open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[5:6] = bytes([view[5] ^ 1])
        view.flush()


def _in_place(tree: Path) -> None:
    status = (tree / "large").stat()
    with (tree / "large").open("r+b") as file:
        file.write(b"x")
    os.utime(tree / "large", ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "write",
    [
        _mapped,
        _in_place,
        lambda tree: (tree / "program").chmod(0o755),
        lambda tree: (tree / "program").touch(),
        lambda tree: (tree / "twin").rename(tree / "twins"),
        lambda tree: (tree / "new").touch(),
        lambda tree: (tree / "empty").unlink(),
        lambda tree: ((tree / "link").unlink(), (tree / "link").symlink_to("/etc/shadow")),
        lambda tree: (tree / "shut" / "twin").write_text("twin"),
    ],
)
def test_any_write_changes_the_signature(tree: Path, write: Callable[[Path], object]) -> None:
    copy = copied(tree)
    (copy / "shut").chmod(0o755)
    before = signature(copy)
    assert signature(copy) == before
    time.sleep(0.02)  # as LayersCopies waits for the clock that files are stamped with
    write(copy)
    assert signature(copy) != before


def test_a_link_in_the_place_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").touch()
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "tree").symlink_to(tmp_path / "secret")
    copy = copied(tmp_path / "from" / "tree")
    assert copy.is_symlink()
    assert signature(copy).keys() == {copy.name}


def test_a_tree_that_is_too_deep_is_told(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    nest(tmp_path / "from", 310)
    with pytest.raises(TreeError, match="nested"):
        copied(tmp_path / "from" / "d")
    with pytest.raises(TreeError, match="nested"):
        signature(tmp_path / "from" / "d")
