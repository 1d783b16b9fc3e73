"""Any sequence of entries is unpacked into what a model of dictionaries has, or refused by both."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fakes import layer_model as model
from fakes import layer_tars
from fakes.effort import examples
from fakes.layer_model import Entry, Refused
from packhorse.errors import FormatError
from packhorse.fs.rooted import RootedTree
from packhorse.tar.unpack import unpack
from packhorse.tar.writer import directory_entries, stream

pytestmark = pytest.mark.system

NAMES = some.sampled_from(["a", "b", "c", "d", ".", "..", "", ".wh.a", ".wh..wh..opq", ".wh..", "x" * 300])
USUAL = some.sampled_from(["a", "b", "c", "d"])
PATHS = some.lists(USUAL, min_size=1, max_size=4).map("/".join) | some.lists(
    NAMES, min_size=1, max_size=4
).map("/".join)
TARGETS = PATHS | some.sampled_from(["", "/", "..", "/..", "../b", "/a/../b", "a/b/../../c"])
ENTRIES = some.tuples(
    some.sampled_from(["file", "dir", "dir", "link", "hard", "fifo", "device"]), PATHS, TARGETS
)


@settings(deadline=None, max_examples=examples(150))
@given(some.lists(ENTRIES, max_size=10), some.integers(0, 0o77).map(lambda bits: 0o700 | bits))
def test_a_layer_becomes_what_the_model_has(entries: list[Entry], mode: int) -> None:
    expected = model.empty()
    try:
        model.apply(expected, entries, mode=mode)
    except Refused:
        expected = None
    with tempfile.TemporaryDirectory() as place:
        try:
            unpack([layer_tars.tar(entries, mode=mode)], Path(place), owner=False)
        except FormatError:
            assert expected is None
            return
        assert expected is not None
        assert layer_tars.listed(Path(place)) == model.listed(expected)


@settings(deadline=None, max_examples=examples(60))
@given(some.lists(ENTRIES, max_size=10))
def test_what_was_unpacked_is_packed_unpacked_and_packed_as_the_same_bytes(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, second = Path(name, "first"), Path(name, "second")
        first.mkdir()
        second.mkdir()
        try:
            unpack([layer_tars.tar(entries)], first, owner=False)
        except FormatError:
            return
        once = packed(first)
        unpack([once], second, owner=False)
        assert packed(second) == once


def packed(root: Path) -> bytes:
    with RootedTree.open_local(root) as view:
        return b"".join(stream(directory_entries(view, "/", uid=0, gid=0)))
