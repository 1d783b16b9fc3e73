"""The tar reader: headers of every kind, and bytes that are none."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from packhorse.errors import FormatError
from packhorse.tar.reader import TarHeader, TarReader


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


def _only(data: bytes) -> TarHeader:
    (header,) = list(TarReader([data]))
    return header


def test_content_is_what_the_header_counts_and_may_be_left_unread() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in (("a", b"x" * 600), ("b", b"y" * 512)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    archive_ = TarReader([out.getvalue()])
    assert next(archive_).name == b"a"
    assert next(archive_).name == b"b"
    assert b"".join(piece for _, piece in archive_.content()) == b"y" * 512
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
    assert header == TarHeader("é".encode(), b"0", 0o644, 3000000, 7, 3, -1_500_000_000, b"t")


def test_pax_records_hold_for_one_entry() -> None:
    first, second = TarReader([_pax(_record("path", "long")) + _block() + _block()])
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
    header = next(TarReader([_patched(_block(), 124, field), bytes(512)]))
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
        _block(size=100) + bytes(99),
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
        for header in TarReader([data]):
            assert header is not None


def _long(name: str, kind: bytes = b"L") -> bytes:
    """GNU's entry for a name that is too long for the header of the next entry."""
    block = _patched(_patched(_block(), 156, kind), 124, b"%011o" % len(name))
    return block + name.encode() + bytes(-len(name) % 512)


DOUBTFUL = {
    "the second of two extended headers counts": (
        _pax(_record("path", "first")) + _pax(_record("uid", "7")) + _block(),
        ("f", 7),
    ),
    "a global header ends what was said before it": (
        _pax(_record("path", "first")) + _patched(_block(), 156, b"g") + _block(),
        ("f", 0),
    ),
    "GNU's long name counts more than PAX's": (
        _long("gnu") + _pax(_record("path", "pax") + _record("uid", "7")) + _block(),
        ("gnu", 7),
    ),
    "an empty long name is none": (_long("") + _block(), ("f", 0)),
    "STAR has times behind its prefix": (
        _patched(_patched(_block(), 508, b"tar\0"), 345, b"p" * 131 + b"00000000001\0" * 2),
        ("p" * 131 + "/f", 0),
    ),
    "a prefix of USTAR needs no version": (
        _patched(_patched(_block(), 263, b"  "), 345, b"p"),
        ("p/f", 0),
    ),
    "GNU has times where others have a prefix": (
        _patched(_patched(_block(), 257, b"ustar  \0"), 345, b"00000000001\0" * 2),
        ("f", 0),
    ),
    "old versions of Go wrote a prefix all the same": (
        _patched(_patched(_block(), 257, b"ustar  \0"), 345, b"some/where"),
        ("some/where/f", 0),
    ),
    "the format of before 1988 has no prefix": (
        _patched(_patched(_block(), 257, bytes(8)), 345, b"p"),
        ("f", 0),
    ),
}


@pytest.mark.parametrize("rule", DOUBTFUL)
def test_what_is_doubtful_is_read_as_go_reads_it(rule: str) -> None:
    data, (name, uid) = DOUBTFUL[rule]
    header = _only(data)
    assert (header.name.decode(), header.uid) == (name, uid)


def test_a_checksum_of_signed_bytes_is_right_as_well() -> None:
    block = bytearray(_patched(_block(), 0, b"\xff\xfe"))
    block[148:156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * 0x20 - 512)
    assert _only(bytes(block)).name == b"\xff\xfe"


def test_an_archive_may_end_before_the_padding_of_its_last_entry() -> None:
    archive = TarReader([_block(size=100) + bytes(100)])
    assert [header.size for header in archive] == [100]


def test_extended_headers_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packhorse.tar.reader._EXTENDED_TOTAL", 100)
    entry = _pax(_record("path", "x" * 30)) + _block()
    with pytest.raises(FormatError, match="more than 100 bytes of extended headers"):
        list(TarReader([entry * 3]))
