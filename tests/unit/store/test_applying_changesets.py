"""Layers applied one after the other give what a model of dictionaries has, links between layers included.

(image-spec layer.md: "Whiteout files MUST only apply to resources in lower/parent layers.")
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fakes import layer_model as model
from fakes import layer_tars
from fakes.effort import examples
from fakes.layer_model import Entry, Refused
from packhorse.errors import FormatError, TreeError
from packhorse.fs.apply import Changeset
from packhorse.tar.unpack import unpack

Layer = Sequence[Entry]


def applied(layers: Sequence[Layer], place: Path, *, mode: int = 0o755) -> Path:
    """Unpacks each layer by itself, as the store does, and applies them all to one tree."""
    root = place / "root"
    root.mkdir(mode=0o755)
    target = os.open(root, os.O_RDONLY)
    try:
        for number, layer in enumerate(layers):
            tree = place / str(number)
            tree.mkdir()
            told = unpack([layer_tars.tar(layer, mode=mode)], tree, owner=False)
            source = os.open(tree, os.O_RDONLY)
            try:
                Changeset(told.whiteouts, told.opaque, frozenset(told.implied)).apply(source, target)
            finally:
                os.close(source)
    finally:
        os.close(target)
    return root


def seen(*layers: Layer) -> dict[str, tuple[str, int, str]]:
    with tempfile.TemporaryDirectory() as place:
        return layer_tars.listed(applied(layers, Path(place)))


BASE: Layer = [
    ("dir", "usr/bin", ""),
    ("file", "usr/bin/sh", "sh"),
    ("link", "bin", "usr/bin"),
    ("link", "sbin", "/bin"),
    ("link", "up", "./.././.."),
    ("link", "new", "var/new"),
    ("dir", "etc", ""),
    ("file", "etc/old", "old"),
]
ABOVE: dict[str, tuple[Layer, list[str]]] = {
    "a file through a link": ([("file", "bin/x", "")], ["+usr/bin/x"]),
    "a file through two links": ([("file", "sbin/x", "")], ["+usr/bin/x"]),
    "a file through a link to nothing": ([("file", "new/x", "")], ["+var", "+var/new", "+var/new/x"]),
    "a file through a link that leads up": ([("file", "up/x", "")], ["+x"]),
    "a directory in place of a link": ([("dir", "bin", ""), ("file", "bin/x", "")], ["+bin/x"]),
    "a whiteout through a link": ([("file", "bin/.wh.sh", "")], ["-usr/bin/sh"]),
    "an opaque directory through a link": ([("file", "sbin/.wh..wh..opq", "")], ["-usr/bin/sh"]),
    "a whiteout in a directory in place of a link": (
        [("dir", "bin", ""), ("file", "bin/.wh.sh", "")],
        [],
    ),
    "a whiteout of the link": ([("file", ".wh.bin", ""), ("file", "bin/x", "")], ["+bin/x"]),
    "a whiteout below a file": ([("file", "etc/old/.wh.x", "")], []),
    "a whiteout of nothing there": ([("file", "etc/.wh.x", "")], []),
    "a whiteout in a new directory": ([("file", "opt/.wh.x", "")], []),
    "a device in place of a file": ([("device", "etc/old", "")], ["-etc/old"]),
    "a file, then a directory": ([("file", "etc", ""), ("dir", "etc", "")], ["-etc/old"]),
    "a directory in place of a file": ([("dir", "etc/old", ""), ("fifo", "etc/old/p", "")], ["+etc/old/p"]),
    "a link to a link that is in the layer itself": (
        [("link", "var", "etc"), ("file", "new/x", "")],
        ["+etc/new", "+etc/new/x", "+var"],
    ),
    "everything hidden": (
        [("file", ".wh..wh..opq", ""), ("file", "a", "")],
        ["+a", "-bin", "-etc", "-etc/old", "-new", "-sbin", "-up", "-usr", "-usr/bin", "-usr/bin/sh"],
    ),
}


@pytest.mark.parametrize("case", ABOVE)
def test_a_layer_is_applied_as_the_tools_do_that_know_the_tree_below(case: str) -> None:
    above, changes = ABOVE[case]
    before, after = seen(BASE).keys(), seen(BASE, above).keys()
    assert (
        sorted([*(f"+{name}" for name in after - before), *(f"-{name}" for name in before - after)])
        == changes
    )


REFUSED: dict[str, tuple[Layer, Layer]] = {
    "a link in a circle": ([("link", "a", "b"), ("link", "b", "a")], [("file", "a/x", "")]),
    "a link to a file": ([("link", "a", "b"), ("file", "b", "")], [("file", "a/x", "")]),
    "an entry below a file": ([("file", "a", "")], [("file", "a/x", "")]),
    "a directory that goes while it is filled": (
        [("dir", "a", ""), ("link", "a/l", ".."), ("link", "a/m", "/b")],
        [("file", "a/l/a", ""), ("file", "a/m/x", "")],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_layer_that_cannot_be_applied_is_refused(case: str) -> None:
    with pytest.raises(TreeError):
        seen(*REFUSED[case])


def test_the_deepest_layer_that_is_unpacked_can_be_applied_as_well() -> None:
    deep = "/".join("d" * 256)
    assert len(seen([("dir", deep, "")], [("dir", deep, "")])) == 256


def test_the_top_is_as_the_last_layer_with_an_entry_for_it_has_it(tmp_path: Path) -> None:
    layers: list[Layer] = [[("file", "a", "")], [("dir", "./", "")], [("file", "b", "")]]
    root = applied(layers, tmp_path, mode=0o750)
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_mtime) == (0o750, 1e9)


def test_a_tree_that_no_archive_makes_is_refused_for_its_depth(tmp_path: Path) -> None:
    (tmp_path / "source" / "/".join("d" * 310)).mkdir(parents=True)
    (tmp_path / "target").mkdir()
    source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in ("source", "target"))
    with pytest.raises(TreeError, match="nested more than"):
        Changeset((), (), frozenset()).apply(source, target)
    os.close(source)
    os.close(target)


def test_a_name_that_only_a_whiteout_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / ".wh.x").touch()
    (tmp_path / "target").mkdir()
    source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in ("source", "target"))
    with pytest.raises(TreeError, match="is a whiteout"):
        Changeset((), (), frozenset()).apply(source, target)
    os.close(source)
    os.close(target)


# Docker's result depends on the order of entries where a layer names one place in two ways, or changes what
# it has passed through. So here a layer goes one way, and does not change it.
PLAIN = some.sampled_from(["a", "b", "c"])
LINKS = some.sampled_from(["l", "m"])
WAYS = [["", "a/", "a/b/", "t/", "t/u/"], ["", "l/", "l/a/"], ["", "m/", "m/b/"], ["", "a/l/"]]
POINTED = some.tuples(
    some.just("link"),
    some.builds(str.__add__, some.sampled_from(["", "a/"]), LINKS),
    some.sampled_from(["t", "/t", "t/u", "/t/u", "/n", "m", "/l"]),
)


def files(ways: Sequence[str]) -> some.SearchStrategy[Entry]:
    # A device, which no namespace may have, hides what the layers below have in its place. Where that is
    # behind a link which the same layer brings, it hides nothing.
    kinds = some.sampled_from(["file", "fifo", "dir", *(["device"] if ways == WAYS[0] else [])])
    return some.tuples(kinds, some.builds(str.__add__, some.sampled_from(ways), PLAIN), PLAIN)


def marks(ways: Sequence[str]) -> some.SearchStrategy[Entry]:
    names = some.sampled_from([".wh.a", ".wh.b", ".wh.t", ".wh..wh..opq"])
    return some.tuples(
        some.just("file"), some.builds(str.__add__, some.sampled_from(ways), names), some.just("")
    )


def is_no_opaque(mark: Entry) -> bool:
    """A link that is hidden leads nowhere, so it matters in which order links are hidden and followed."""
    return not mark[1].endswith(".wh..wh..opq")


LAYERS = some.sampled_from(WAYS).flatmap(
    lambda ways: some.tuples(
        some.lists(marks(ways), max_size=3).map(lambda found: sorted(found, key=is_no_opaque)),
        some.lists(POINTED, max_size=3),
        some.lists(files(ways), max_size=6),
    ).map(lambda parts: settled([entry for part in parts for entry in part]))
)


def settled(entries: Layer) -> Layer:
    """The entries without those in place of directories that other entries pass through."""
    kept: list[Entry] = []
    for entry in entries:
        own = any(before[1] == entry[1] and before[0] == "dir" for before in kept)
        hidden = entry[1].replace(".wh.", "")
        passed = any(before[1].startswith((f"{entry[1]}/", f"{hidden}/")) for before in kept)
        gone = any(
            before[1].startswith(".wh.") and f"/{entry[1]}".startswith(f"/{before[1][4:]}/")
            for before in kept
        )
        if own or (not passed and not (gone and ".wh." in entry[1])):
            kept.append(entry)
    return kept


@pytest.mark.system
@settings(deadline=None, max_examples=examples(100))
@given(some.lists(LAYERS, min_size=1, max_size=4), some.integers(0, 0o77).map(lambda bits: 0o700 | bits))
def test_layers_give_what_the_model_has(layers: list[Layer], mode: int) -> None:
    expected = model.empty()
    refused = False
    try:
        for layer in layers:
            model.apply(expected, layer, mode=mode)
    except Refused:
        refused = True
    with tempfile.TemporaryDirectory() as place:
        try:
            root = applied(layers, Path(place), mode=mode)
        except FormatError:
            assert refused
            return
        assert not refused
        assert layer_tars.listed(root) == model.listed(expected)


@pytest.mark.system
@settings(deadline=None, max_examples=examples(50))
@given(
    some.lists(some.lists(files(WAYS[0]), max_size=5), min_size=1, max_size=2),
    some.lists(files(WAYS[0]), max_size=5),
    some.lists(marks(["", "t/"]), max_size=3),
    some.data(),
)
def test_whiteouts_count_wherever_they_stand(
    lower: list[Layer], above: Layer, hidden: Layer, data: some.DataObject
) -> None:
    mixed = list(above)
    for mark in hidden:
        mixed.insert(data.draw(some.integers(0, len(mixed))), mark)
    try:
        expected = seen(*lower, [*hidden, *above])
    except FormatError:
        with pytest.raises(FormatError):
            seen(*lower, mixed)
        return
    assert seen(*lower, mixed) == expected
