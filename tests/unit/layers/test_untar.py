"""The tar reader: headers of every kind, and bytes that are none."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from packhorse.errors import FormatError
from packhorse.layers.untar import Archive, Header


def _block(**changes: Any) -> bytes:
    info = tarfile.TarInfo("f")
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


def _patched(block: bytes, at: int, data: bytes) -> bytes:
    patched = bytearray(block)
    patched[at : at + len(data)] = data
    patched[148:156] = b" " * 8
    patched[148:156] = b"%06o\0 " % sum(patched)
    return bytes(patched)


def _pax(records: bytes) -> bytes:
    block = _patched(_block(), 156, b"x")
    block = _patched(block, 124, b"%011o" % len(records))
    return block + records + bytes(-len(records) % 512)


def _record(key: str, value: str) -> bytes:
    rest = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(rest) + 2
    return str(length).encode() + rest if len(str(length)) == 2 else str(length - 1).encode() + rest


def _only(data: bytes) -> Header:
    (header,) = list(Archive([data]))
    return header


def test_content_is_what_the_header_counts_and_may_be_left_unread() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in (("a", b"x" * 600), ("b", b"y" * 512)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    archive_ = Archive([out.getvalue()])
    assert next(archive_).name == b"a"
    assert next(archive_).name == b"b"
    assert b"".join(archive_.content()) == b"y" * 512
    assert next(archive_, None) is None


def test_pax_records_take_precedence() -> None:
    records = b"".join(
        _record(key, value)
        for key, value in {
            "path": "é",
            "linkpath": "t",
            "size": "3",
            "uid": "3000000",
            "gid": "7",
            "mtime": "-1.5",
        }.items()
    )
    data = _pax(records) + _block() + b"abc" + bytes(509)
    header = _only(data)
    assert header == Header("é".encode(), b"0", 0o644, 3000000, 7, 3, -1_500_000_000, b"t")


def test_pax_records_hold_for_one_entry() -> None:
    first, second = Archive([_pax(_record("path", "long")) + _block() + _block()])
    assert (first.name, second.name) == (b"long", b"f")


def test_an_empty_pax_value_means_the_header() -> None:
    assert _only(_pax(_record("path", "")) + _block()).name == b"f"


def test_global_records_are_passed_over() -> None:
    data = _pax(_record("path", "other"))
    assert _only(_patched(data[:512], 156, b"g") + data[512:] + _block()).name == b"f"


@pytest.mark.parametrize(
    ("field", "size"), [(b"\x80" + bytes(10) + b"\x05", 5), (b"\0\0\0\0   005 \0", 5), (bytes(12), 0)]
)
def test_numbers_are_octal_or_base_256(field: bytes, size: int) -> None:
    header = next(Archive([_patched(_block(), 124, field), bytes(512)]))
    assert header.size == size


def test_a_time_before_the_epoch_is_read() -> None:
    assert _only(_patched(_block(), 136, b"\xff" * 12)).mtime == -(10**9)


def test_an_old_directory_is_known_by_its_slash() -> None:
    assert _only(_patched(_patched(_block(), 156, b"\0"), 0, b"d/")).type == b"5"


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 512,
        _block()[:511],
        _patched(_block(), 124, b"9" * 11),
        _patched(_block(), 124, b"0o7\0"),
        _patched(_block(), 124, b"1_0\0"),
        _patched(_block(), 124, b"-1\0"),
        _patched(_block(), 124, b"\xff" * 12),
        _patched(_block(), 124, b"\x80" + b"\xff" * 11),
        _patched(_block(), 108, b"\xff" * 8),
        _block(size=100),
        _block(size=100) + bytes(100),
        bytes(512) + _block(),
        _pax(b"7 a=b"),
        _pax(b"99 a=b\n"),
        _pax(b"0 a=b\n"),
        _pax(b"-6 a=b\n"),
        _pax(b"6 a=bc"),
        _pax(b"5 ab\n"),
        _pax(b"12 path=a\0b\n"),
        _pax(_record("size", "-1")) + _block(),
        _pax(_record("size", "1_0")) + _block(),
        _pax(_record("uid", "x")) + _block(),
        _pax(_record("mtime", "1e9")) + _block(),
        _pax(_record("mtime", "1" * 30)) + _block(),
        _patched(_patched(_block(), 156, b"x"), 124, b"%011o" % (2 << 20)) + bytes(2 << 20),
    ],
    ids=range(25),
)
def test_bytes_that_are_no_tar_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        for header in Archive([data]):
            assert header is not None


@pytest.mark.parametrize(
    "data", [_patched(_block(), 156, b"S"), _pax(_record("GNU.sparse.major", "1")) + _block()]
)
def test_a_sparse_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(FormatError, match="f is stored as a sparse file"):
        list(Archive([data]))
