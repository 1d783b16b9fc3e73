"""An application that is packed with pieces of what it was before is packed to the same bytes as without."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.effort import examples
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Overlay
from packhorse.base.tree import Node, TreeView
from packhorse.build.layers import HostAppLayerCache
from packhorse.errors import StoreError
from packhorse.fs import overlay
from packhorse.fs.rooted import RootedTree
from packhorse.fs.views import OverlayView
from packhorse.linux import userns
from packhorse.oci.place import Layer
from packhorse.source.files import SourceScan, scan_source
from packhorse.store.store import Store
from packhorse.tar.slices import FormerSlice, Piece, Pieces, divide
from packhorse.tar.writer import selected_entries, stream

TERMS = "how it is packed"
DIRECTORIES = ("a", "a/b", "a/b/c", "a-b", "d", "d/e", "é", "é/\udcff")
EVERYTHING = {"/app", *(f"/app/{path}" for path in DIRECTORIES)}
FIRST = ("a/1", "a/b/2", "a/b/c/3", "a-b/4", "a.d", "d/5", "d/e/6", "top", "é/\udcff/7")


def settled(path: Path) -> SourceScan:
    """A survey once the files are old enough for it to be relied on."""
    while not (found := scan_source(path)).stamp:
        time.sleep(0.01)
    return found


def packed(view: TreeView, pieces: Pieces | None = None) -> Layer:
    (whole,) = divide(view, "/app", [], pieces)
    entries = partial(selected_entries, view, "/app", whole.entries, uid=1000, gid=1000)
    return Layer(lambda: stream(entries(), whole.position))


class Workshop:
    """A source, what is hidden and written over it, and a store in which it is packed again and again."""

    def __init__(self, directory: Path) -> None:
        self.layers = [directory / name for name in ("source", "hidden", "upper")]
        for path in self.layers:
            path.mkdir()
        self.source, self.hidden, self.upper = self.layers
        self.store = directory / "store"
        self.blob = directory
        self.pieces = directory

    def pack(
        self,
        terms: str = TERMS,
        *,
        look: Callable[[Path], SourceScan] = settled,
        during: Callable[[], object] | None = None,
    ) -> set[str]:
        """Packs it with pieces of the last time, as it is packed without; answers which directories were
        listed for that. `during` is called when it was looked at, and is packed next; then what it is packed
        to is not looked at.
        """
        overlay = Overlay((self.source, self.hidden), "/app", self.upper)
        with (
            Store.open(self.store) as store,
            store.scratch() as scratch,
            OverlayView(self.layers, "/app") as plain,
            RootedTree.open_local("/") as anywhere,
        ):
            idmap = userns.choose_map(0, 0, mode=userns.MapMode.SINGLE)
            kept = store.open_layers("app", idmap, uid=0, gid=0, scratch=scratch)
            found = look(self.source)
            if during is not None:
                during()
            memory = HostAppLayerCache(lambda: found, lambda: overlay, kept)
            with memory.open(anywhere, terms) as (view, pieces):
                assert pieces is not None
                made = packed(Watched(view, listed := set()), pieces)
                layer = store.place("app").write_layer(made)
                assert b"".join(layer.tar()) == b"".join(made.tar())
            if during is None:
                assert b"".join(layer.tar()) == b"".join(packed(plain).tar())
            assert layer.diff_id is not None
            memory.put(terms, [layer.diff_id])
            kept.commit(b"", {})
            self.blob = store.path / "blobs" / "sha256" / layer.diff_id.hex
            self.pieces = store.path / "layers" / f"{layer.diff_id.hex}.pieces"
        return listed


class Watched:
    """A view that notes which directories are listed."""

    def __init__(self, view: TreeView, listed: set[str]) -> None:
        self._listed = listed
        self.stat, self.open, self.readlink, self.head_reader = (
            view.stat,
            view.open,
            view.readlink,
            view.head_reader,
        )
        self._list = view.list

    def list(self, path: str) -> Sequence[Node]:
        self._listed.add(path)
        return self._list(path)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    made = Workshop(tmp_path)
    for name in FIRST:
        write(made.source / name, f"this is {name}")
    (made.source / "a/b/link").symlink_to("nowhere/é")
    os.link(made.source / "a/1", made.source / "a/twin")
    os.mkfifo(made.source / "d/pipe")
    (made.source / "d/5").chmod(0o4750)
    (made.source / "d").chmod(0o2770)
    assert made.pack() == EVERYTHING
    return made


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.fsencode(text))


def whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, 0o020000, os.makedev(0, 0))


def replace(path: Path) -> None:
    """Removes a directory and makes a new one, as an overlay's upper says it."""
    path.mkdir(parents=True)
    os.setxattr(path, overlay.OPAQUE, b"y")
    write(path / "2", "new")


CHANGES: list[tuple[Callable[[Workshop], object], str]] = [
    (lambda here: None, ""),
    (lambda here: write(here.source / "top", "now"), ""),
    (lambda here: write(here.source / "a/b/c/3", "now"), "/a /a/b /a/b/c"),
    (lambda here: write(here.source / "a/b/2", "now"), "/a /a/b"),
    (lambda here: (here.source / "d/5").chmod(0o755), "/d"),
    (lambda here: (here.source / "d/e").chmod(0o700), "/d"),
    (lambda here: (here.source / "d/e").rename(here.source / "d/f"), "/d /d/f"),
    (lambda here: (here.source / "a").rename(here.source / "c"), "/c /c/b /c/b/c"),
    (lambda here: shutil.rmtree(here.source / "a/b"), "/a"),
    (lambda here: (here.source / "a-b/new").mkdir(), "/a-b /a-b/new"),
    (lambda here: (here.source / "a-b/pipe").symlink_to("4"), "/a-b"),
    (lambda here: write(here.upper / "d/5", "over it"), "/d"),
    (lambda here: write(here.upper / "d/e/new", "over it"), "/d /d/e"),
    (lambda here: whiteout(here.upper / "a/b/c/3"), "/a /a/b /a/b/c"),
    (lambda here: whiteout(here.hidden / "a/b"), "/a"),
    (lambda here: replace(here.upper / "a/b"), "/a /a/b"),
]


@pytest.mark.parametrize(("change", "listed"), CHANGES)
def test_only_directories_with_something_new_in_them_are_looked_at(
    workshop: Workshop, change: Callable[[Workshop], object], listed: str
) -> None:
    change(workshop)
    assert workshop.pack() == {"/app", *(f"/app{path}" for path in listed.split())}


def test_what_was_excluded_and_is_not_any_more_is_there_again(workshop: Workshop) -> None:
    whiteout(workshop.hidden / "a/b/2")
    workshop.pack()
    (workshop.hidden / "a/b/2").unlink()
    shutil.rmtree(workshop.hidden / "a")
    assert workshop.pack() == {"/app", "/app/a", "/app/a/b"}
    assert workshop.pack() == {"/app"}


def test_with_other_terms_all_is_looked_at(workshop: Workshop) -> None:
    assert workshop.pack("others") == EVERYTHING
    assert workshop.pack("others") == {"/app"}


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_what_was_there_only_while_it_was_packed_does_not_stay(workshop: Workshop) -> None:
    lock = workshop.source / "a/b/lock"
    write(workshop.source / "top", "now")
    (workshop.source / "a/b").touch()
    workshop.pack("others", during=lambda: write(lock, "secret"))
    lock.unlink()
    write(workshop.source / "top", "later")
    assert workshop.pack("others") == {"/app", "/app/a", "/app/a/b"}
    assert b"secret" not in workshop.blob.read_bytes()


def test_directories_that_were_exchanged_while_they_were_packed_are_packed_again(workshop: Workshop) -> None:
    write(workshop.source / "new/a/b/2", "this is another")
    both = workshop.source / "new/a", workshop.source / "a"
    workshop.pack("others", during=lambda: swap(*both))
    swap(*both)
    assert workshop.pack("others") >= {"/app", "/app/a", "/app/a/b", "/app/new", "/app/new/a", "/app/new/a/b"}
    assert workshop.pack("others") == {"/app"}


def test_what_is_edited_while_it_is_packed_is_there_the_next_time(workshop: Workshop) -> None:
    write(workshop.source / "top", "now")
    assert workshop.pack(during=lambda: write(workshop.source / "a/b/2", "edited")) == {"/app"}
    assert workshop.pack() == {"/app", "/app/a", "/app/a/b"}


def test_a_directory_with_a_socket_in_it_is_looked_at_every_time(workshop: Workshop) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(workshop.source / "d/socket"))
    assert [workshop.pack(), workshop.pack()] == [{"/app", "/app/d"}] * 2


def test_files_of_several_owners_are_packed_whole(workshop: Workshop) -> None:
    os.chown(workshop.source / "d/5", 1234, 1234)
    assert [workshop.pack(), workshop.pack()] == [EVERYTHING, EVERYTHING]


def test_what_globs_divide_is_looked_at(workshop: Workshop) -> None:
    view = OverlayView(workshop.layers, "/app")
    read: list[object] = []

    def note(start: int, end: int) -> Iterator[bytes]:
        read.append((start, end))
        yield bytes(end - start)

    former = FormerSlice({path: Piece("x", 0, 512) for path in DIRECTORIES}, 512, note)
    pieces = Pieces(dict.fromkeys(["", *DIRECTORIES], "x"), lambda path: True, former)
    assert pieces.find_unchanged("a")
    with view:
        divided = divide(view, "/app", [["a"]], pieces)
        paths = {path for one in divided for path, _ in one.entries}
    assert set(FIRST) < set(paths) and not read


def test_only_a_directory_with_a_file_that_is_too_young_is_looked_at_again(workshop: Workshop) -> None:
    def look(path: Path) -> SourceScan:
        while not found or found[-1].directory_stamps["d/e"]:
            write(path / "d/e/6", "young")
            found.append(scan_source(path))
        assert not found[-1].stamp
        return found[-1]

    found: list[SourceScan] = []

    young = {"/app", "/app/d", "/app/d/e"}
    assert [workshop.pack(look=look), workshop.pack(), workshop.pack()] == [young, young, {"/app"}]


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_another_version(path: Path) -> None:
    data = b'{"format": 0, "others": []}'
    path.write_bytes(f"{Digest.of(data)}\n".encode() + data)


@pytest.mark.parametrize(
    "damage",
    [
        of_another_version,
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"512", b"513")),
        Path.unlink,
        unreadable,
    ],
)
def test_where_it_is_not_known_any_more_all_is_looked_at(
    workshop: Workshop, damage: Callable[[Path], object]
) -> None:
    damage(workshop.pieces)
    assert workshop.pack() == EVERYTHING


def damaged(workshop: Workshop) -> None:
    data = workshop.blob.read_bytes()
    workshop.blob.write_bytes(data.replace(b"this is d/e/6", b"this is d/e/7"))
    assert workshop.blob.read_bytes() != data


def test_pieces_of_a_layer_that_was_damaged_are_not_used(workshop: Workshop) -> None:
    damaged(workshop)
    with pytest.raises(StoreError, match="damaged"):
        workshop.pack()
    assert not workshop.pieces.exists() and not workshop.blob.exists()
    assert workshop.pack() == EVERYTHING


def test_pieces_of_a_layer_that_was_cut_off_are_not_used(workshop: Workshop) -> None:
    os.truncate(workshop.blob, workshop.blob.stat().st_size - 512)
    assert workshop.pack() == EVERYTHING


def test_a_layer_of_which_little_could_be_used_is_not_read(workshop: Workshop) -> None:
    damaged(workshop)
    for name in FIRST:
        if name != "d/e/6":
            write(workshop.source / name, "now")
    assert workshop.pack() == EVERYTHING


NAME = st.sampled_from(["a", "a/b", "a-b", "a.b", "a/b/c", "b", "b/a", "b/a/c", "é", "a/é"])
EDIT = st.one_of(
    st.tuples(st.just("write"), NAME, st.sampled_from(["", "x", "y" * 600, "z" * 2_000_000])),
    st.tuples(st.just("write"), NAME.map("{}/file".format), st.sampled_from(["", "x", "y"])),
    st.tuples(st.just("make"), NAME, st.just("")),
    st.tuples(st.just("remove"), NAME, st.just("")),
    st.tuples(st.just("rename"), NAME, NAME),
    st.tuples(st.just("mode"), NAME, st.sampled_from(["755", "700", "644"])),
    st.tuples(st.just("link"), NAME, st.just("to")),
    st.tuples(st.just("over"), NAME, st.sampled_from(["", "x"])),
    st.tuples(st.just("gone"), NAME, st.just("")),
    st.tuples(st.just("replace"), NAME, st.just("")),
    st.tuples(st.just("hide"), NAME, st.just("")),
    st.tuples(st.just("clean"), st.just(""), st.just("")),
)


def edit(here: Workshop, verb: str, name: str, other: str) -> None:
    path = here.source / name
    match verb:
        case "write":
            write(path, other)
        case "make":
            path.mkdir(parents=True)
        case "remove":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        case "rename":
            path.rename(here.source / other)
        case "mode":
            path.chmod(int(other, 8))
        case "link":
            path.symlink_to(other)
        case "over":
            write(here.upper / name, other)
        case "gone":
            whiteout(here.upper / name)
        case "replace":
            replace(here.upper / name)
        case "hide":
            whiteout(here.hidden / name)
        case "clean":
            for layer in (here.hidden, here.upper):
                shutil.rmtree(layer)
                layer.mkdir()


@settings(max_examples=examples(60))
@given(st.lists(st.lists(EDIT, max_size=4), min_size=2, max_size=6))
def test_whatever_is_edited_the_bytes_are_the_same(rounds: list[list[tuple[str, str, str]]]) -> None:
    with TemporaryDirectory() as directory:
        here = Workshop(Path(directory))
        for name in ("a/b/c/1", "a/b/2", "b/a/3", "b/4"):
            write(here.source / name, name)
        for edits in rounds:
            for each in edits:
                with suppress(OSError):
                    edit(here, *each)
            here.pack()
