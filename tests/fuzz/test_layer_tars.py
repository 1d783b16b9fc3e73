"""Layer tars: what we write everybody reads, and no archive makes the unpacker leave its directory."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from fakes.plain_tree import PlainTree
from packhorse.base.tree import NodeKind
from packhorse.errors import FormatError
from packhorse.tar.unpack import unpack
from packhorse.tar.writer import TarEntry, directory_entries, stream

pytestmark = pytest.mark.system

TYPES = {NodeKind.FILE: tarfile.REGTYPE, NodeKind.DIRECTORY: tarfile.DIRTYPE, NodeKind.LINK: tarfile.SYMTYPE}

NAMES = some.text(
    some.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255 and not name.startswith(".wh."))
PATHS = some.lists(NAMES, min_size=1, max_size=6).map(lambda names: "/" + "/".join(names))
MODES = some.integers(0, 0o7777)
IDS = some.integers(0, (1 << 32) - 2)


@some.composite
def entries(draw: some.DrawFn) -> TarEntry:
    name, mode, uid, gid = draw(PATHS), draw(MODES), draw(IDS), draw(IDS)
    match draw(some.sampled_from(sorted(TYPES, key=str))):
        case NodeKind.FILE:
            content = draw(some.binary(max_size=2000))
            return TarEntry(
                name, NodeKind.FILE, mode, uid, gid, len(content), open=lambda: io.BytesIO(content)
            )
        case NodeKind.LINK:
            return TarEntry(name, NodeKind.LINK, mode, uid, gid, link=draw(NAMES | PATHS))
    return TarEntry(name, NodeKind.DIRECTORY, mode, uid, gid)


@settings(deadline=None)
@given(some.lists(entries(), max_size=8))
def test_the_standard_library_reads_what_we_write(written: list[TarEntry]) -> None:
    data = b"".join(stream(written))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        read = archive.getmembers()
        files = [archive.extractfile(item) if item.isreg() else None for item in read]
        contents = [file.read() if file else b"" for file in files]
    assert [
        (item.name, item.type, item.mode, item.uid, item.gid, item.linkname, item.mtime) for item in read
    ] == [
        (entry.name, TYPES[entry.kind], entry.mode, entry.uid, entry.gid, entry.link, 315532801)
        for entry in written
    ]
    assert contents == [entry.open().read() if entry.open else b"" for entry in written]


SHAPES = some.recursive(
    some.binary(max_size=1500) | NAMES,
    lambda inner: some.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
Shape = bytes | str | dict[str, "Shape"]


def _build(where: Path, shape: Shape) -> None:
    match shape:
        case bytes():
            where.write_bytes(shape)
        case str():
            where.symlink_to(shape)
        case dict():
            where.mkdir()
            for name, inner in shape.items():
                _build(where / name, inner)


def _seen(top: Path) -> dict[str, tuple[int, bytes | str]]:
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(top.rglob("*")):
        content: bytes | str = ""
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(top))] = (path.lstat().st_mode, content)
    return found


@settings(deadline=None)
@given(some.dictionaries(NAMES, SHAPES, max_size=4))
def test_unpacking_what_was_written_gives_the_same_tree(shape: dict[str, Shape]) -> None:
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "source", Path(place) / "target"
        source.mkdir()
        target.mkdir()
        _build(source / "top", shape)
        unpack(stream(directory_entries(PlainTree(source), "/top", uid=0, gid=0)), target, owner=False)
        assert _seen(target) == _seen(source)


WORDS = some.sampled_from(
    ["a", "b", "c", ".", "..", "", "outside", "kept", ".wh.a", ".wh..wh..opq", "x" * 300]
)
HOSTILE = some.lists(WORDS, min_size=1, max_size=4).map("/".join)
KINDS = some.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"S", b"Z"]
)
STEPS = some.tuples(KINDS, HOSTILE, HOSTILE, MODES)


def _archive(steps: list[tuple[bytes, str, str, int]]) -> bytes:
    out = bytearray()
    for kind, name, link, mode in steps:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, link, mode
        info.size = 5 if kind == tarfile.REGTYPE else 0
        out += info.tobuf(tarfile.PAX_FORMAT)
        if info.size:
            out += b"hello".ljust(512, b"\0")
    return bytes(out + bytes(1024))


def _state(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_mode, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns


@contextmanager
def _guarded() -> Iterator[Path]:
    """A target whose surroundings must be the same afterwards."""
    with tempfile.TemporaryDirectory() as place:
        outside, target = Path(place) / "outside", Path(place) / "target"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        target.mkdir()
        before = _state(outside), _state(outside / "kept")
        try:
            yield target
        finally:
            assert sorted(path.name for path in Path(place).iterdir()) == ["outside", "target"]
            assert [path.name for path in outside.iterdir()] == ["kept"]
            assert (_state(outside), _state(outside / "kept")) == before
            target.chmod(stat.S_IRWXU)
            for above, names, _ in os.walk(target):
                for name in names:
                    if not (path := Path(above) / name).is_symlink():
                        path.chmod(stat.S_IRWXU)


def _try(data: bytes, target: Path, size: int) -> None:
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    with suppress(FormatError):
        unpack(chunks, target, owner=False)


@settings(deadline=None, max_examples=300)
@given(some.lists(STEPS, max_size=8))
def test_no_sequence_of_entries_reaches_outside(steps: list[tuple[bytes, str, str, int]]) -> None:
    with _guarded() as target:
        _try(_archive(steps), target, 10_000)


@settings(deadline=None, max_examples=300)
@given(
    some.lists(STEPS, min_size=1, max_size=4),
    some.lists(some.tuples(some.integers(0, 1 << 13), some.binary(min_size=1, max_size=16)), max_size=4),
    some.integers(1, 3000),
    some.booleans(),
)
def test_mutated_archives_raise_format_errors_only(
    steps: list[tuple[bytes, str, str, int]], patches: list[tuple[int, bytes]], size: int, summed: bool
) -> None:
    data = bytearray(_archive(steps))
    for at, patch in patches:
        at %= len(data)
        data[at : at + len(patch)] = patch[: len(data) - at]
        if summed:
            start = at // 512 * 512
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    with _guarded() as target:
        _try(bytes(data), target, size)
