"""The suite of the ports TreeView and TreeEdit, on each tree that phases are given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes.place import Place, place
from fakes.plain_tree import PlainTree
from packhorse.base.sandbox import Bind, Overlay
from packhorse.base.tree import Node, NodeKind, TreeEdit, TreeView
from packhorse.errors import TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.fs.views import BindView


@dataclass(frozen=True)
class Case:
    """A tree, and a directory in it that has only what a test puts there."""

    tree: TreeEdit
    top: str


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("place")) as made:
        yield made


@pytest.fixture(params=["directory", "held room", "finished room", "finished room over kept files"])
def case(request: pytest.FixtureRequest, tmp_path: Path, here: Place) -> Iterator[Case]:
    with ExitStack() as stack:
        if request.param == "directory":
            yield Case(stack.enter_context(RootedTree.open_local(tmp_path)), "")
            return
        overlay = here.overlay("/layers")
        script = "true"
        if request.param.endswith("kept files"):
            overlay = here.overlay("/layers", kept(here))
            script = "rm -r /layers/* && ls -A /layers"
        step = here.spec(script, overlay)
        if request.param == "held room":
            step = replace(step, argv=())
        room = stack.enter_context(here.sandbox.open(step))
        if step.argv:
            left: list[bytes] = []
            assert room.run(left.append).status == 0
            assert left == []
        yield Case(room.tree, "/layers")


def kept(here: Place) -> Path:
    """A lower with the names that the tests use; a step removes them all, which leaves whiteouts."""
    lower = here.directory()
    for name in ("a", "b", "new", "moved"):
        (lower / name).mkdir()
        (lower / name / "old").write_text("old")
        for path in (lower / name, lower / name / "old"):
            os.chown(path, *here.namespace.idmap.to_outside(1000, 1000))
    return lower


def names(tree: TreeView, path: str) -> list[str]:
    return [node.name for node in tree.list(path)]


def read(tree: TreeView, path: str) -> bytes:
    with tree.open(path) as file:
        return file.read()


def first_bytes(tree: TreeView, path: str) -> bytes:
    with tree.head_reader() as first:
        return first(path, 5)


def test_what_is_written_is_read(case: Case) -> None:
    case.tree.write(f"{case.top}/a/b/file", b"content", mode=0o640)
    assert read(case.tree, f"{case.top}/a/b/file") == b"content"
    with case.tree.head_reader() as first:
        assert first(f"{case.top}/a/b/file", 100) == b"content"
        assert first(f"{case.top}/a/b/file", 3) == b"con"
    node = case.tree.stat(f"{case.top}/a/b/file")
    assert node is not None
    assert (node.name, node.kind, node.mode, node.size) == ("file", NodeKind.FILE, 0o640, 7)
    assert names(case.tree, case.top or "/") == ["a"]
    assert names(case.tree, f"{case.top}/a") == ["b"]


SHUT = """
cd /layers
mkdir -p none/deep read
echo hidden > none/deep/file
echo secret > file
echo read > read/file
ln -s deep none/link
chmod 0200 file none/deep/file
chmod 0400 read
chmod 0 none/deep none
"""


def test_what_its_mode_shuts_even_its_owner_out_of_is_read(here: Place) -> None:
    step = here.spec(SHUT, here.overlay("/layers"))
    with here.sandbox.open(step) as room:
        said: list[bytes] = []
        assert (room.run(said.append).status, said) == (0, [])
        tree = room.tree
        assert [(node.name, node.mode) for node in tree.list("/layers")] == [
            ("file", 0o200),
            ("none", 0),
            ("read", 0o400),
        ]
        for path, content in (
            ("file", b"secret\n"),
            ("none/link/file", b"hidden\n"),
            ("read/file", b"read\n"),
        ):
            assert read(tree, f"/layers/{path}") == content
            with tree.head_reader() as first:
                assert first(f"/layers/{path}", 3) == content[:3]
        assert names(tree, "/layers/none") == ["deep", "link"]
        assert [node.size for node in tree.list("/layers/read")] == [5]
        assert tree.readlink("/layers/none/link") == "deep"
        assert tree.stat("/layers/none/missing") is None
        assert tree.stat("/layers/none/deep/file") is not None


def test_a_directory_that_was_removed_comes_back_empty(case: Case) -> None:
    case.tree.mkdir(f"{case.top}/b")
    assert names(case.tree, f"{case.top}/b") == []


def test_writing_replaces_a_file_and_its_mode(case: Case) -> None:
    case.tree.write(f"{case.top}/new", b"first", mode=0o755)
    case.tree.write(f"{case.top}/new", b"x")
    node = case.tree.stat(f"{case.top}/new")
    assert node is not None and (node.size, node.mode) == (1, 0o644)


def test_a_copy_has_the_content_and_the_usual_mode(case: Case) -> None:
    for mode in (0o644, 0o755, 0o600):
        case.tree.write(f"{case.top}/a/file", b"content", mode=mode)
        case.tree.write(f"{case.top}/b/file", b"what was there")
        case.tree.copy(f"{case.top}/a/file", f"{case.top}/b/file", limit=7)
        node = case.tree.stat(f"{case.top}/b/file")
        assert node is not None
        assert (node.kind, node.mode, node.size) == (NodeKind.FILE, 0o644, 7)
        assert read(case.tree, f"{case.top}/b/file") == read(case.tree, f"{case.top}/a/file") == b"content"
        with pytest.raises(TreeError, match="too large"):
            case.tree.copy(f"{case.top}/a/file", f"{case.top}/b/file", limit=6)


def test_what_is_no_file_or_not_there_is_not_copied(case: Case) -> None:
    case.tree.mkdir(f"{case.top}/a/directory")
    for path in ("a/directory", "a/missing", "missing/file"):
        with pytest.raises(TreeError):
            case.tree.copy(f"{case.top}/{path}", f"{case.top}/b/file", limit=10)


def test_new_entries_belong_to_one_user(case: Case) -> None:
    case.tree.write(f"{case.top}/a/file", b"")
    entries = [case.tree.stat(f"{case.top}/a"), case.tree.stat(f"{case.top}/a/file")]
    expected = (1000, 1000) if case.top else (os.geteuid(), os.getegid())
    assert {(node.uid, node.gid) for node in entries if node is not None} == {expected}


def test_what_is_missing_is_none_or_an_error(case: Case) -> None:
    assert case.tree.stat(f"{case.top}/a") is None
    assert case.tree.stat(f"{case.top}/a/b/c", follow=True) is None
    with case.tree.head_reader() as first:
        for call in (case.tree.open, case.tree.list, case.tree.readlink, lambda path: first(path, 1)):
            with pytest.raises(TreeError, match="/a"):
                call(f"{case.top}/a")


def test_kinds_are_not_mixed_up(case: Case) -> None:
    case.tree.write(f"{case.top}/a/file", b"")
    for call, path in (
        (case.tree.open, "/a"),
        (case.tree.list, "/a/file"),
        (case.tree.readlink, "/a/file"),
        (case.tree.mkdir, "/a/file"),
        (case.tree.mkdir, "/a/file/below"),
    ):
        with pytest.raises(TreeError):
            call(case.top + path)
    with pytest.raises(TreeError):
        case.tree.write(f"{case.top}/a", b"")
    assert case.tree.stat(f"{case.top}/a/file/below") is None


def test_entries_are_listed_in_byte_order(case: Case) -> None:
    for name in ("b", "a", "B", "a.toml", "\udcff", "é"):
        case.tree.write(f"{case.top}/new/{name}", b"")
    assert names(case.tree, f"{case.top}/new") == ["B", "a", "a.toml", "b", "é", "\udcff"]


def test_an_entry_is_moved_to_a_free_name_only(case: Case) -> None:
    case.tree.write(f"{case.top}/a/file", b"1")
    case.tree.write(f"{case.top}/b/file", b"2")
    with pytest.raises(TreeError):
        case.tree.rename(f"{case.top}/a", f"{case.top}/b")
    with pytest.raises(TreeError):
        case.tree.rename(f"{case.top}/none", f"{case.top}/moved")
    case.tree.rename(f"{case.top}/a", f"{case.top}/moved")
    assert names(case.tree, case.top or "/") == ["b", "moved"]
    assert read(case.tree, f"{case.top}/moved/file") == b"1"


def test_a_directory_is_removed_with_all_that_is_below(case: Case) -> None:
    case.tree.write(f"{case.top}/a/b/c/d", b"")
    case.tree.remove(f"{case.top}/a")
    case.tree.remove(f"{case.top}/a")
    case.tree.remove(f"{case.top}/none/none")
    assert case.tree.stat(f"{case.top}/a") is None


def test_a_removed_directory_can_be_made_again(case: Case) -> None:
    for content in (b"1", b"2"):
        case.tree.write(f"{case.top}/a/{content.decode()}", content)
        assert names(case.tree, f"{case.top}/a") == [content.decode()]
        case.tree.remove(f"{case.top}/a")


def test_links_made_by_a_step_stay_inside(here: Place) -> None:
    script = (
        "cd /layers; ln -s /etc/passwd absolute; ln -s ../../../etc/passwd upwards; ln -s loop loop; "
        "ln -s /proc/1/root/etc/passwd magic; ln -s /dev/null device; ln -s nothing dangling; "
        "ln -s /layers dir"
    )
    with here.sandbox.open(here.spec(script, here.overlay("/layers"))) as room:
        assert room.run(None).status == 0
        tree = room.tree
        passwd = (
            (here.root / "etc" / "passwd").read_bytes() if os.geteuid() == 0 else read(tree, "/etc/passwd")
        )
        assert b"cnb" in passwd
        assert read(tree, "/layers/absolute") == read(tree, "/layers/dir/upwards") == passwd
        assert tree.readlink("/layers/upwards") == "../../../etc/passwd"
        for name in ("loop", "magic", "device", "dangling"):
            with pytest.raises(TreeError):
                tree.open(f"/layers/{name}")
            node = tree.stat(f"/layers/{name}")
            assert node is not None and node.kind is NodeKind.LINK
        tree.write("/layers/absolute", b"mine")
        assert read(tree, "/layers/absolute") == b"mine"
        assert read(tree, "/etc/passwd") == passwd


def test_only_what_a_step_could_write_can_be_written(here: Place) -> None:
    with here.sandbox.open(replace(here.spec("", here.overlay("/layers")), argv=())) as room:
        for path in ("/new", "/etc/passwd", "/proc/sys/kernel/hostname", "/dev/new"):
            with pytest.raises(TreeError):
                room.tree.write(path, b"")
        for path in ("/etc/passwd", "/bin"):
            with pytest.raises(TreeError):
                room.tree.remove(path)


def test_a_layered_view_shows_the_topmost(here: Place) -> None:
    lowers = (here.directory(), here.directory())
    for number, lower in enumerate(lowers):
        (lower / "both").write_text(str(number))
        (lower / f"only-{number}").touch()
    with here.sandbox.open(replace(here.spec("", Overlay(lowers, "/seen")), argv=())) as room:
        assert names(room.tree, "/seen") == ["both", "only-0", "only-1"]
        assert read(room.tree, "/seen/both") == b"1"


def test_the_fake_view_agrees_with_the_real_one(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").write_text("content")
    (tmp_path / "link").symlink_to("directory/file")
    os.mkfifo(tmp_path / "fifo")
    fake = PlainTree(tmp_path)
    with RootedTree.open_local(tmp_path) as real:
        for path in ("/", "/directory"):
            assert fake.list(path) == real.list(path)
        for path in ("/directory", "/link", "/fifo", "/none"):
            assert fake.stat(path) == real.stat(path)
        assert fake.stat("/link", follow=True) == real.stat("/link", follow=True)
        assert read(fake, "/link") == read(real, "/link")
        assert first_bytes(fake, "/link") == first_bytes(real, "/link")
        assert fake.readlink("/link") == real.readlink("/link")


def seen(tree: TreeView, path: str) -> object:
    """All that a view tells of what is at `path`, and below it."""

    def told(action: Callable[[], object]) -> object:
        try:
            return action()
        except TreeError:
            return "refused"

    def plain(node: Node | None) -> object:
        return node and (node.name, node.kind, node.mode if node.kind is NodeKind.FILE else 0, node.size)

    found = told(lambda: list(tree.list(path)))
    names = [node.name for node in found] if isinstance(found, list) else []
    return (
        told(lambda: plain(tree.stat(path))),
        told(lambda: plain(tree.stat(path, follow=True))),
        told(lambda: read(tree, path)),
        told(lambda: first_bytes(tree, path)),
        told(lambda: tree.readlink(path)),
        [seen(tree, f"{path}/{name}") for name in names],
    )


def test_a_view_of_mounts_shows_what_a_room_with_them_does(here: Place) -> None:
    platform, buildpack, other = here.directory(), here.directory(), here.directory()
    (platform / "env").mkdir()
    (platform / "env/A").write_text("a")
    (platform / "env/B").symlink_to("../env/A")
    (buildpack / "buildpack.toml").write_text("api")
    (buildpack / "link").symlink_to("buildpack.toml")
    (other / "file").write_text("of this machine")
    binds = (
        Bind(platform, "/platform"),
        Bind(buildpack, "/cnb/buildpacks/a_b/1.0"),
        Bind(other, "/platform/bindings"),
        Bind(other / "file", "/cnb/build-config/env/FILE"),
    )
    (platform / "bindings").mkdir()
    step = replace(here.spec("true"), argv=(), mounts=binds)
    with here.sandbox.open(step) as room, BindView(here.root, binds, idmap=here.namespace.idmap) as view:
        for path in ("/cnb", "/platform", "/platform/env/A", "/bin", "/none", "/cnb/buildpacks/a_b/2.0"):
            assert seen(view, path) == seen(room.tree, path), path
        assert seen(view, "/cnb//buildpacks/./a_b/1.0/") == seen(view, "/cnb/buildpacks/a_b/1.0")
