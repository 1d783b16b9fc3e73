"""Directories laid over each other without a mount show what the kernel's overlay of the same does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.place import Place, place
from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import TreeError
from packhorse.fs.views import OverlayView
from packhorse.tar.slices import divide
from packhorse.tar.writer import selected_entries, stream

SCRIPTS = {
    "nothing": "true",
    "new things": "mkdir -p new/below; echo 1 > new/below/file; ln -s new/below link; echo 2 > top",
    "files": "echo longer > src/a; rm src/b; echo x >> src/deep/er/c; chmod 0751 src/deep/d; mv src/e src/f",
    "a directory removed": "rm -r src",
    "a directory replaced by one": "rm -r src; mkdir src; echo mine > src/a",
    "a directory replaced by a file": "rm -r src; echo file > src",
    "a directory replaced by a link": "rm -r src; ln -s other src",
    "a file replaced by a directory": "rm src/a; mkdir src/a; echo inside > src/a/file",
    "a directory below replaced": "rm -r src/deep; mkdir -p src/deep/er; echo x > src/deep/er/other",
    "removed and changed": "rm -r other; chmod 0700 src; chmod 0711 src/deep; echo é > src/é; rm src/pipe",
    "all removed": "rm -r ./* .hidden",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place")) as made:
        yield made


def source(here: Place) -> Path:
    top = here.directory()
    for name in (
        "src/a",
        "src/b",
        "src/e",
        "src/deep/d",
        "src/deep/er/c",
        "other/a",
        ".hidden",
        ".git/config",
    ):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(f"this is {name}")
    os.mkfifo(top / "src/pipe")
    (top / "src/to").symlink_to("../other/a")
    for path in (top, *top.rglob("*")):
        os.chown(path, *here.namespace.idmap.to_outside(1000, 1000), follow_symlinks=False)
    return top


def told(view: TreeView, path: str) -> Iterator[object]:
    """All that is at a path and below it."""
    node = view.stat(path)
    assert node is not None
    yield path, node.kind, node.mode, node.size
    if node.kind is NodeKind.DIRECTORY:
        for child in view.list(path):
            yield from told(view, f"{path}/{child.name}")
    elif node.kind is NodeKind.LINK:
        yield view.readlink(path)
    elif node.kind is NodeKind.FILE:
        with view.open(path) as file, view.head_reader() as first:
            yield file.read(), first(path, 6)


def packed(view: TreeView, globs: list[list[str]]) -> list[bytes]:
    divided = divide(view, "/seen", globs)
    return [b"".join(stream(selected_entries(view, "/seen", one.entries, uid=1, gid=2))) for one in divided]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
@pytest.mark.parametrize("lowers", [1, 2])
def test_what_a_step_leaves_is_the_same(here: Place, script: str, lowers: int) -> None:
    below = [source(here)]
    if lowers == 2:
        hidden = here.directory()
        os.mknod(hidden / ".git", 0o020000, os.makedev(0, 0))
        below.append(hidden)
    overlay = here.overlay("/seen", *below)
    with here.sandbox.open(here.spec(f"set -e; cd /seen; {script}", overlay)) as room:
        left: list[bytes] = []
        assert room.run(left.append).status == 0, left
        assert overlay.upper is not None
        with OverlayView((*overlay.lowers, overlay.upper), "/seen") as laid:
            assert list(told(laid, "/seen")) == list(told(room.tree, "/seen"))
            for globs in ([], [["src/*"], ["new"]]):
                assert packed(laid, globs) == packed(room.tree, globs)
            if lowers == 2:
                assert laid.stat("/seen/.git") is None


def test_what_is_not_there_is_none_or_an_error(here: Place, tmp_path: Path) -> None:
    upper = here.directory()
    os.mknod(upper / "other", 0o020000, os.makedev(0, 0))
    with OverlayView((source(here), upper), "/seen") as laid:
        for path in ("/seen/none", "/seen/other", "/seen/other/a", "/seen/src/none", "/seen/none/none"):
            assert laid.stat(path) is None
            for call in (laid.open, laid.list, laid.readlink):
                with pytest.raises(TreeError):
                    call(path)
        for path in ("/", "/seenx", "/etc/passwd"):
            with pytest.raises(TreeError):
                laid.stat(path)
        with pytest.raises(TreeError):
            laid.list("/seen/src/a")
        with pytest.raises(TreeError, match="link"):
            laid.stat("/seen/src/to", follow=True)
    with pytest.raises(TreeError):
        OverlayView((upper, tmp_path / "none"), "/seen")


def test_no_link_leads_out_of_its_layer(here: Place, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    lower, upper = source(here), here.directory()
    (upper / "out").symlink_to(tmp_path)
    (upper / "file").symlink_to(tmp_path / "secret")
    with OverlayView((lower, upper), "/seen") as laid, laid.head_reader() as first:
        for path in ("/seen/file", "/seen/out/secret"):
            with pytest.raises(TreeError):
                laid.open(path)
            with pytest.raises(TreeError):
                first(path, 10)


def test_descriptors_are_closed(here: Place) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with OverlayView((source(here), here.directory()), "/seen") as laid:
        list(told(laid, "/seen"))
        assert set(os.listdir("/proc/self/fd")) - before
    assert set(os.listdir("/proc/self/fd")) <= before
