"""A link that somebody planted never leads out of the tree, whatever is done with it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.churn import churning
from packhorse.base.tree import NodeKind
from packhorse.errors import HostError, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.linux import syscalls


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory with a secret, beside the tree."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("outside")
    return directory


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    directory = tmp_path / "tree"
    directory.mkdir()
    return directory


@pytest.fixture
def tree(inside: Path) -> Iterator[RootedTree]:
    with RootedTree.open_local(inside) as rooted:
        yield rooted


def escapes(inside: Path, outside: Path) -> list[str]:
    """Plants every kind of link to the secret; returns their paths."""
    (inside / "absolute").symlink_to(outside / "secret")
    (inside / "upwards").symlink_to("../../../../../../../../.." + str(outside / "secret"))
    (inside / "directory").symlink_to(outside)
    (inside / "root").symlink_to("/proc/self/root" + str(outside))
    (inside / "working").symlink_to("/proc/self/cwd")
    (inside / "chain").symlink_to("absolute")
    return ["/absolute", "/upwards", "/directory/secret", "/root/secret", "/chain", "/working/secret"]


def test_no_link_can_be_read_through_to_the_outside(tree: RootedTree, inside: Path, outside: Path) -> None:
    for path in escapes(inside, outside):
        assert tree.stat(path, follow=True) is None
        with pytest.raises(TreeError):
            tree.open(path)
        with pytest.raises(TreeError):
            tree.list(path)


def test_dots_in_a_path_end_at_the_root(tree: RootedTree, inside: Path, outside: Path) -> None:
    (inside / "here").write_text("inside")
    with tree.open("/../../here") as file:
        assert file.read() == b"inside"
    assert tree.stat(f"/../{outside.name}/secret") is None


def test_an_absolute_link_is_resolved_below_the_root(tree: RootedTree, inside: Path) -> None:
    (inside / "etc").mkdir()
    (inside / "etc" / "shadow").write_text("of the tree")
    (inside / "link").symlink_to("/etc/shadow")
    with tree.open("/link") as file:
        assert file.read() == b"of the tree"


def test_a_written_file_takes_the_place_of_a_link(tree: RootedTree, inside: Path, outside: Path) -> None:
    for path in ("/absolute", "/chain"):
        escapes(inside, outside)
        tree.write(path, b"new")
        assert not (inside / path[1:]).is_symlink()
        for entry in inside.iterdir():
            entry.unlink()
    assert (outside / "secret").read_text() == "outside"


def test_nothing_is_made_or_removed_through_a_link_to_the_outside(
    tree: RootedTree, inside: Path, outside: Path
) -> None:
    escapes(inside, outside)
    for path in ("/directory/new", "/root/new"):
        with pytest.raises(TreeError):
            tree.write(path, b"")
        with pytest.raises(TreeError):
            tree.mkdir(path)
    tree.remove("/directory/secret")
    tree.remove("/root/secret")
    with pytest.raises(TreeError):
        tree.rename("/directory/secret", "/taken")
    assert [entry.name for entry in outside.iterdir()] == ["secret"]
    assert not (inside / "taken").exists()


def test_a_link_is_removed_and_not_what_it_leads_to(tree: RootedTree, inside: Path, outside: Path) -> None:
    (inside / "below").mkdir()
    (inside / "below" / "link").symlink_to(outside)
    tree.remove("/below")
    assert not (inside / "below").exists()
    assert (outside / "secret").exists()


def test_a_circle_of_links_is_an_error_and_not_a_hang(tree: RootedTree, inside: Path) -> None:
    (inside / "a").symlink_to("b")
    (inside / "b").symlink_to("a")
    with pytest.raises(TreeError, match="circle"):
        tree.open("/a")
    with pytest.raises(TreeError):
        tree.mkdir("/a/below")
    node = tree.stat("/a")
    assert node is not None and node.kind is NodeKind.LINK


def test_fifos_sockets_and_devices_are_seen_and_never_opened(tree: RootedTree, inside: Path) -> None:
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(inside)
        listener.bind("socket")
        os.chdir(before)
    for name, kind in (("fifo", NodeKind.FIFO), ("socket", NodeKind.OTHER)):
        with pytest.raises(TreeError, match="not a regular file"):
            tree.open(f"/{name}")
        node = tree.stat(f"/{name}")
        assert node is not None and node.kind is kind


def test_files_that_the_kernel_makes_up_are_refused() -> None:
    with RootedTree.open_local("/") as machine:
        for path in ("/proc/self/environ", "/proc/cpuinfo", "/sys/kernel/uevent_seqnum"):
            with pytest.raises(TreeError):
                machine.open(path)
        with pytest.raises(TreeError):
            machine.list("/proc/self")
        with pytest.raises(TreeError, match="not a regular file"):
            machine.open("/dev/null")


def test_many_files_are_read_as_each_of_them_is(tree: RootedTree, inside: Path, outside: Path) -> None:
    for name in ("a/one", "a/two", "b/one", "top"):
        (inside / name).parent.mkdir(exist_ok=True)
        (inside / name).write_text(f"this is {name}")
    (inside / "in").symlink_to("a")
    with tree.head_reader() as first:
        for name in ("a/one", "a/two", "b/one", "top", "a/two", "in/one"):
            assert first(f"/{name}", 100) == (inside / name).read_bytes()
            assert first(f"/{name}", 4) == b"this"
        for path in escapes(inside, outside):
            with pytest.raises(TreeError):
                first(path, 100)
        os.mkfifo(inside / "a/fifo")
        for path in ("/a/fifo", "/a", "/a/..", "/a/none", "/none/one", "/a/o\0ne"):
            with pytest.raises(TreeError):
                first(path, 100)
        assert first("/a/one", 100) == b"this is a/one"


def test_the_directory_of_the_last_file_is_let_go_at_the_end(tree: RootedTree, inside: Path) -> None:
    (inside / "a").mkdir()
    (inside / "a" / "file").touch()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), tree.head_reader() as first:
        first("/a/file", 1)
        assert len(set(os.listdir("/proc/self/fd")) - before) == 1
        1 / 0  # noqa: B018
    assert set(os.listdir("/proc/self/fd")) <= before


def test_files_that_the_kernel_makes_up_are_refused_among_many_too() -> None:
    with RootedTree.open_local("/") as machine, machine.head_reader() as first:
        for path in ("/proc/self/environ", "/proc/cpuinfo", "/proc/meminfo", "/sys/kernel/uevent_seqnum"):
            with pytest.raises(TreeError):
                first(path, 1)
        with pytest.raises(TreeError, match="not a regular file"):
            first("/dev/null", 1)


def test_a_directory_that_is_swapped_for_a_link_meanwhile_does_not_lead_out(
    tree: RootedTree, inside: Path, outside: Path
) -> None:
    (inside / "real").mkdir()
    (inside / "real" / "secret").write_text("inside")
    (inside / "fake").symlink_to(outside)
    (inside / "name").mkdir()
    (inside / "name" / "secret").write_text("inside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("fake", "real"):
                os.rename(inside / "name", inside / "kept")
                os.rename(inside / name, inside / "name")
                os.rename(inside / "name", inside / name)
                os.rename(inside / "kept", inside / "name")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        seen = set()
        for _ in range(2000):
            try:
                with tree.open("/name/secret") as file:
                    seen.add(file.read())
            except TreeError:
                pass
    finally:
        stop.set()
        thread.join()
    assert seen <= {b"inside"}  # a busy machine may show none


def test_a_circle_that_is_to_be_looked_through_is_an_error(tree: RootedTree, inside: Path) -> None:
    (inside / "a").symlink_to("a")
    with pytest.raises(TreeError, match="looked at"):
        tree.stat("/a", follow=True)


@pytest.mark.parametrize("path", ["/a\0b", "\0"])
def test_a_name_that_the_kernel_would_cut_short_is_no_path(tree: RootedTree, path: str) -> None:
    for ask in (tree.stat, tree.list, tree.open, tree.readlink, tree.remove, tree.mkdir):
        with pytest.raises(TreeError):
            ask(path)


def test_a_path_that_is_too_long_to_read_is_shown_in_part(tree: RootedTree) -> None:
    with pytest.raises(TreeError) as raised:
        tree.list("/" + "/".join(["d" * 200] * 30))
    assert len(raised.value.what) < 400
    assert raised.value.why == "File name too long"


def test_a_directory_that_is_not_there_is_no_tree(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="cannot be used as a tree"):
        RootedTree.open_local(tmp_path / "none")


def test_a_tree_may_be_closed_twice(inside: Path) -> None:
    tree = RootedTree.open_local(inside)
    tree.close()
    tree.close()


def answers(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def openat2(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, "openat2", openat2)


def test_a_kernel_that_cannot_resolve_safely_is_an_error_of_the_host(
    tree: RootedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, errno.ENOSYS)
    with pytest.raises(HostError, match="this kernel"):
        tree.stat("/a")


def test_directories_that_are_renamed_without_end_are_an_error_and_not_a_hang(
    tree: RootedTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, errno.EAGAIN)
    with pytest.raises(TreeError, match="cannot be opened"):
        tree.stat("/a")


def test_what_goes_while_it_is_listed_is_not_there(tree: RootedTree, inside: Path) -> None:
    (inside / "stays").touch()
    with churning(inside):
        for _ in range(300):
            assert "stays" in [node.name for node in tree.list("/")]
