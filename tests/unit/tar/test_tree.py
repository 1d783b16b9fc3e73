"""Which entries a directory gives, in which order; the bytes are test_reference_layers'."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.plain_tree import PlainTree
from fakes.small_tree import make
from packhorse.errors import TreeError
from packhorse.tar.writer import TarEntry, directory_entries, selected_entries


def _names(entries: object) -> list[str]:
    return [entry.name for entry in entries]  # type: ignore[attr-defined]


def test_parents_come_first_and_stat_never_says_what_they_are(tmp_path: Path) -> None:
    make(tmp_path, [["directory", "layers", "0700", ""], ["directory", "layers/x", "0750", ""]])
    parent = TarEntry.directory("/layers", uid=7, gid=8)
    first, second = directory_entries(PlainTree(tmp_path), "/layers/x", uid=1, gid=2, parents=[parent])
    assert first == parent
    assert (second.name, second.mode, second.uid, second.gid) == ("/layers/x", 0o750, 1, 2)


def test_a_directory_named_among_the_parents_is_written_once_as_the_parent(tmp_path: Path) -> None:
    make(tmp_path, [["directory", "workspace", "0700", ""], ["file", "workspace/a", "0644", ""]])
    top = TarEntry.directory("/workspace", mode=0o777)
    entries = list(directory_entries(PlainTree(tmp_path), "/workspace", uid=1, gid=1, parents=[top]))
    assert entries[0] == top
    assert _names(entries) == ["/workspace", "/workspace/a"]


def test_links_are_entries_and_not_followed(tmp_path: Path) -> None:
    make(
        tmp_path, [["directory", "d", "0755", ""], ["link", "d/loop", "", "."], ["link", "d/out", "", "/etc"]]
    )
    entries = list(directory_entries(PlainTree(tmp_path), "/d", uid=0, gid=0))
    assert [(entry.name, entry.link) for entry in entries] == [
        ("/d", ""),
        ("/d/loop", "."),
        ("/d/out", "/etc"),
    ]


def test_an_empty_selection_has_no_parents(tmp_path: Path) -> None:
    parents = [TarEntry.directory("/workspace")]
    assert not list(selected_entries(PlainTree(tmp_path), "/workspace", [], uid=0, gid=0, parents=parents))


@pytest.mark.parametrize("path", ["/file", "/missing", "/link"])
def test_a_layer_that_is_no_directory_is_refused(path: str, tmp_path: Path) -> None:
    make(tmp_path, [["directory", "d", "0755", ""], ["file", "file", "0644", ""], ["link", "link", "", "d"]])
    with pytest.raises(TreeError):
        list(directory_entries(PlainTree(tmp_path), path, uid=0, gid=0))
