"""Sparse files as GNU tar stores them become sparse files again, and maps that lie are refused."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from packhorse.errors import FormatError
from packhorse.tar.unpack import UnpackLimits, unpack

FORMATS = {
    "old GNU": ["--format=gnu"],
    "PAX 0.0": ["--format=posix", "--sparse-version=0.0"],
    "PAX 0.1": ["--format=posix", "--sparse-version=0.1"],
    "PAX 1.0": ["--format=posix", "--sparse-version=1.0"],
}
BLOCK = 512

pieces = some.lists(some.tuples(some.integers(0, 40), some.binary(min_size=1, max_size=700)), max_size=30)


def written(path: Path, found: list[tuple[int, bytes]], size: int) -> bytes:
    """Makes a file of the pieces, each some blocks behind the one before; returns what is in it."""
    with path.open("wb") as file:
        for gap, data in found:
            file.seek(gap * BLOCK, os.SEEK_CUR)
            file.write(data)
        file.truncate(file.tell() + size)
    return path.read_bytes()


@pytest.mark.system
@pytest.mark.parametrize("form", FORMATS)
@settings(deadline=None, max_examples=15)
@given(found=pieces, tail=some.integers(0, 5000))
def test_what_gnu_tar_stores_sparse_comes_back(form: str, found: list[tuple[int, bytes]], tail: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        content = written(place / "f", found, tail)
        (place / "after").write_bytes(b"after")
        words = [
            "tar",
            "--sparse",
            "--hole-detection=raw",
            *FORMATS[form],
            "-C",
            name,
            "-cf",
            "-",
            "f",
            "after",
        ]
        archive = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
        (place / "target").mkdir()
        told = unpack(
            (archive[at : at + 777] for at in range(0, len(archive), 777)), place / "target", owner=False
        )
        assert (place / "target" / "f").read_bytes() == content
        assert (place / "target" / "after").read_bytes() == b"after"
        assert told.bytes == len(content) + 5


def test_a_hole_takes_no_room(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    unpack([archive(1 << 34, [(1 << 33, b"x" * 600)])], tmp_path / "target", owner=False)
    found = (tmp_path / "target" / "f").stat()
    assert (found.st_size, found.st_blocks < 100) == (1 << 34, True)


def test_a_hole_counts_against_the_limit(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="unpacks to more than"):
        unpack([archive(1 << 50, [])], tmp_path, owner=False)
    with pytest.raises(FormatError, match="unpacks to more than"):
        unpack([archive(2000, [])], tmp_path, owner=False, limits=UnpackLimits(bytes=1999))


def test_a_map_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    head = entry(b"x", "x", records(major="1", minor="0", realsize="9"))
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        yield head + entry(b"0", "f", b"", size=(8 << 30) - 1)
        yield b"99999999999\n".ljust(BLOCK, b"1")
        while True:
            taken += 1
            yield b"1\n" * (1 << 19)

    with pytest.raises(FormatError, match="longer than"):
        unpack(endless(), tmp_path, owner=False)
    assert taken == 0


def records(**values: str) -> bytes:
    out = b""
    for key, value in values.items():
        rest = f" GNU.sparse.{key}={value}\n".encode()
        length = len(rest) + 1
        while len(f"{length}") + len(rest) != length:
            length += 1
        out += f"{length}".encode() + rest
    return out


def entry(kind: bytes, name: str, data: bytes, size: int | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if size is None else size
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def archive(length: int, extents: list[tuple[int, bytes]], **changes: str) -> bytes:
    """A tar with one file in PAX 0.1, its records changed as told."""
    pairs = [str(number) for offset, data in extents for number in (offset, len(data))]
    values = {"size": str(length), "numblocks": str(len(extents)), "map": ",".join(pairs), **changes}
    data = b"".join(data for _, data in extents)
    return entry(b"x", "x", records(**values)) + entry(b"0", "f", data) + bytes(2 * BLOCK)


def first(numbers: str) -> bytes:
    """A tar with one file in PAX 1.0, which begins with the text `numbers`."""
    data = numbers.encode() + bytes(-len(numbers) % BLOCK) + b"data" + bytes(508)
    head = records(major="1", minor="0", realsize="2000")
    return entry(b"x", "x", head) + entry(b"0", "f", data) + bytes(2 * BLOCK)


def old(extents: list[tuple[int, int]], size: int, data: bytes, more: list[bytes]) -> bytes:
    """A tar with one entry of type S; `more` are the blocks behind its header."""
    block = bytearray(entry(b"S", "f", data)[:BLOCK])
    block[257:265] = b"ustar  \0"
    for number, (offset, length) in enumerate(extents):
        block[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (offset, length)
    block[482] = bool(more)
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"".join(more) + data + bytes(-len(data) % BLOCK) + bytes(2 * BLOCK)


BROKEN = {
    "extents that overlap": archive(100, [(0, b"abc"), (2, b"d")]),
    "extents in disorder": archive(100, [(50, b"abc"), (2, b"d")]),
    "an extent beyond the end": archive(100, [(99, b"ab")]),
    "an extent without its data": archive(100, [(0, b"ab")], map="0,3"),
    "data without an extent": archive(100, [(0, b"ab")], map="0,1"),
    "half an extent": archive(100, [(0, b"ab")], map="0"),
    "a negative offset": archive(100, [(0, b"ab")], map="-1,2"),
    "a size that is no number": archive(100, [], size="x"),
    "no size": archive(100, [], size=""),
    "a count that is not right": archive(100, [(0, b"ab")], numblocks="2"),
    "a number of many digits": archive(100, [(0, b"ab")], map="0," + "2" * 30),
    "a map without numbers": first("x\n"),
    "a map of a negative number of extents": first("-1\n"),
    "a map without an end": first("9\n0\n4\n"),
    "a map that goes on for more than a mebibyte": entry(
        b"x", "x", records(major="1", minor="0", realsize="2")
    )
    + entry(b"0", "f", b"200000\n" + b"11111\n" * (1 << 18)),
    "a map of more than a mebibyte": entry(b"x", "x", records(major="1", minor="0", realsize="2000"))
    + entry(b"0", "f", b"999999999\n" + b"1\n" * (1 << 20)),
    "numbers that come in another order": entry(b"x", "x", records(numbytes="1", offset="0", size="9")),
    "a number with a comma": entry(b"x", "x", records(offset="1,2", numbytes="0", size="9")),
    "a directory with holes": entry(b"x", "x", records(map="0,0", numblocks="1", size="9"))
    + entry(b"5", "d", b""),
    "an old map in disorder": old([(600, 3), (0, 3)], 1000, b"abcdef", []),
    "an old map that goes on without an end": old([], 1000, b"", [(b"\0" * 504 + b"\1" + b"\0" * 7)] * 2049),
    "an old map that is cut": old([], 1000, b"", [b"\0" * 504 + b"\1" + b"\0" * 7])[: 2 * BLOCK],
    "an old map of something else": old([(0, 3)], 1000, b"abc", []).replace(
        b"00000000003\0", b"0000000000x\0", 1
    ),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_map_that_cannot_be_is_refused(tmp_path: Path, defect: str) -> None:
    with pytest.raises(FormatError) as raised:
        unpack([BROKEN[defect]], tmp_path, owner=False)
    assert raised.value.why


TAKEN = {
    "PAX 0.1": (
        archive(1000, [(10, b"ab"), (500, b"c")]),
        bytes(10) + b"ab" + bytes(488) + b"c" + bytes(499),
    ),
    "PAX 1.0": (first("1\n0\n512\n"), b"data" + bytes(1996)),
    "old GNU": (old([(0, 3), (1000, 0)], 1000, b"abc", []), b"abc" + bytes(997)),
    "old GNU with more extents": (
        old([], 1000, b"abc", [b"%011o\0%011o\0" % (7, 3) + bytes(488)]),
        bytes(7) + b"abc" + bytes(990),
    ),
    "a version nobody knows": (archive(2, [(0, b"ab")], major="2", minor="0"), b"ab"),
    "records of a file that is not sparse": (
        entry(b"x", "x", records(size="9")) + entry(b"0", "f", b"abc"),
        b"abc",
    ),
}


@pytest.mark.parametrize("form", TAKEN)
def test_a_map_that_can_be_is_taken(tmp_path: Path, form: str) -> None:
    data, expected = TAKEN[form]
    unpack([data], tmp_path, owner=False)
    assert (tmp_path / "f").read_bytes() == expected
