"""The tar writer: header bytes, chunking, and files that change while they are read."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from packhorse.base.tree import NodeKind
from packhorse.errors import FormatError, TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.tar import writer
from packhorse.tar.writer import TarEntry, directory_entries

HEADERS = json.loads((Path(__file__).parents[2] / "golden" / "layers" / "headers.json").read_text("ascii"))
KINDS = {"0": NodeKind.FILE, "2": NodeKind.LINK, "5": NodeKind.DIRECTORY, "6": NodeKind.FIFO}
MIB = 1 << 20


def _file(content: bytes, *, size: int | None = None, name: str = "/f") -> TarEntry:
    return TarEntry.file(name, len(content) if size is None else size, lambda: BytesIO(content))


@pytest.mark.parametrize("case", HEADERS, ids=range(len(HEADERS)))
def test_a_header_has_the_bytes_that_go_writes(case: dict[str, Any]) -> None:
    entry = TarEntry(
        case["name"], KINDS[case["type"]], case["mode"], case["uid"], case["gid"], case["size"], case["link"]
    )
    header = writer.header(entry)
    assert (len(header) // 512, hashlib.sha256(header).hexdigest()) == (case["blocks"], case["sha256"])


def test_a_layer_without_entries_is_two_zero_blocks() -> None:
    assert b"".join(writer.stream([])) == bytes(1024)


def test_chunks_have_at_most_one_mebibyte_and_lose_nothing() -> None:
    sizes = [0, 1, 511, 512, 513, MIB - 1, MIB, MIB + 1, 3 * MIB + 7]
    contents = {f"/f{size}": bytes([size % 251]) * size for size in sizes}
    chunks = list(writer.stream(_file(content, name=name) for name, content in contents.items()))
    assert max(map(len, chunks)) <= MIB
    with tarfile.open(fileobj=BytesIO(b"".join(chunks))) as archive:
        read = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    assert read == contents


def test_small_files_share_a_chunk() -> None:
    assert len(list(writer.stream(_file(b"x") for _ in range(1000)))) == 1


@pytest.mark.parametrize("size", [11, MIB, 3 * MIB])
def test_a_file_that_grew_is_refused_by_name(size: int) -> None:
    with pytest.raises(TreeError, match="/f grew while it was read"):
        list(writer.stream([_file(bytes(size + 1), size=size)]))


@pytest.mark.parametrize("size", [11, MIB, 3 * MIB])
def test_a_file_that_shrank_is_refused_by_name(size: int) -> None:
    with pytest.raises(TreeError, match="/f shrank while it was read"):
        list(writer.stream([_file(bytes(size - 1), size=size)]))


@pytest.mark.parametrize("size", [11, 1 << 18, MIB, 3 * MIB])
@pytest.mark.parametrize(("verb", "change"), [("grew", 1), ("shrank", -1)])
def test_a_file_of_a_tree_that_changed_after_it_was_listed_is_refused(
    size: int, verb: str, change: int, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(bytes(size))
    with RootedTree.open_local(tmp_path) as view:
        entries = list(directory_entries(view, "/", uid=0, gid=0))
        os.truncate(tmp_path / "b", size + change)
        with pytest.raises(TreeError, match=f"/b {verb} while it was read"):
            list(writer.stream(entries))


def test_what_is_no_file_any_more_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with RootedTree.open_local(tmp_path) as view:
        entries = list(directory_entries(view, "/", uid=0, gid=0))
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        with pytest.raises(TreeError, match="not a regular file"):
            list(writer.stream(entries))


def test_files_of_several_trees_are_read_each_from_its_own(tmp_path: Path) -> None:
    entries = []
    with ExitStack() as stack:
        for number in range(3):
            (tmp_path / f"{number}").mkdir()
            for name in ("a", "b"):
                (tmp_path / f"{number}" / name).write_text(f"{name} of {number}")
            view = stack.enter_context(RootedTree.open_local(tmp_path / f"{number}"))
            found = tuple(directory_entries(view, "/", uid=0, gid=0))
            entries += [entry._replace(name=f"/{number}{entry.name}") for entry in found if entry.at]
        data = b"".join(writer.stream(sorted(entries, key=lambda entry: entry.name[::-1])))
    with tarfile.open(fileobj=BytesIO(data)) as archive:
        read = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    assert read == {
        f"/{number}//{name}": f"{name} of {number}".encode() for number in range(3) for name in "ab"
    }


def test_a_name_with_a_nul_is_refused() -> None:
    with pytest.raises(FormatError):
        writer.header(TarEntry.directory("/a\0b"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 6, 40])
def test_the_digest_is_that_of_all_chunks_and_comes_with_their_length(count: int) -> None:
    chunks = [b"", *(os.urandom(MIB - number) for number in range(count)), b"", b"c"]
    digest, size = writer.digest(chunks)
    whole = b"".join(chunks)
    assert (digest.hex, size) == (hashlib.sha256(whole).hexdigest(), len(whole))


def test_a_digest_ends_with_what_its_chunks_raise_and_leaves_no_thread() -> None:
    def chunks() -> Iterator[bytes]:
        yield from [bytes(MIB)] * 9
        assert [thread.name for thread in threading.enumerate()].count("digest") == 1
        raise TreeError("it shrank")

    with pytest.raises(TreeError, match="it shrank"):
        writer.digest(chunks())
    assert "digest" not in [thread.name for thread in threading.enumerate()]
