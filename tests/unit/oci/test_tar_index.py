"""Archives are read by an index of their members; whatever is odd in them is refused, never extracted."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from packhorse.errors import FormatError, NotFoundError
from packhorse.oci.archive import TarIndex, TarWriter

LONG = "directory/" * 12 + "file"


def archive(
    path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.PAX_FORMAT
) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_every_tar_format_are_found(tmp_path: Path, format: int) -> None:
    path = archive(tmp_path / "a.tar", ("./x", b"1"), (LONG, b"22" * 700), ("empty", b""), format=format)
    tar = TarIndex.read(path)
    assert tar.content("x", limit=9) == b"1"
    assert tar.content(LONG, limit=9999) == b"22" * 700
    assert tar.content("empty", limit=9) == b""
    assert tar.find("y") is None


def test_the_last_of_several_members_with_one_name_counts(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", ("x", b"old"), ("y", b"-"), ("x", b"new"))
    assert TarIndex.read(path).content("x", limit=9) == b"new"


def test_links_are_followed_inside_the_archive_alone(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tar",
        ("a/layer.tar", b"layer"),
        link("b/layer.tar", "../a/layer.tar"),
        link("hard", "b/layer.tar", tarfile.LNKTYPE),
        link("out", "../../../etc/passwd"),
        link("absolute", "/etc/passwd"),
        link("round", "round"),
    )
    tar = TarIndex.read(path)
    assert tar.content("b/layer.tar", limit=9) == b"layer"
    assert tar.content("hard", limit=9) == b"layer"
    for name in ("out", "absolute", "round"):
        assert tar.find(name) is None


def test_a_small_file_that_is_large_is_refused(tmp_path: Path) -> None:
    tar = TarIndex.read(archive(tmp_path / "a.tar", ("x", b"12345")))
    with pytest.raises(FormatError, match="too large"):
        tar.content("x", limit=4)
    with pytest.raises(NotFoundError):
        tar.content("y", limit=4)


def sparse() -> bytes:
    info = tarfile.TarInfo("x")
    info.type = tarfile.GNUTYPE_SPARSE
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    plain = tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)
    return info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + plain + bytes(1024)


def oversized(size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


BROKEN: dict[str, Callable[[], bytes]] = {
    "no tar at all": lambda: b"packhorse" * 100,
    "a gzip file": lambda: b"\x1f\x8b\x08" + b"x" * 600,
    "a header that is cut": lambda: tarfile.TarInfo("x").tobuf()[:300],
    "a wrong checksum": lambda: b"y" + tarfile.TarInfo("x").tobuf()[1:] + bytes(1024),
    "a file that is cut": lambda: oversized(4096, tarfile.REGTYPE),
    "a size beyond everything": lambda: oversized(1 << 62, tarfile.REGTYPE),
    "a long name beyond everything": lambda: oversized(1 << 40, tarfile.GNUTYPE_LONGNAME),
    "a sparse file": sparse,
    "a PAX sparse file": lambda: pax(b"22 GNU.sparse.major=1\n"),
    "a PAX record without a length": lambda: pax(b"path=x\n"),
    "a PAX record that is too long": lambda: pax(b"99 path=x\n"),
    "a PAX record of no bytes": lambda: pax(b"0 path=x\n"),
    "a PAX record with a length of many digits": lambda: pax(b"9" * 400 + b" path=x\n"),
    "a PAX size beyond everything": lambda: pax(b"26 size=99999999999999999\n"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_archive_is_refused(tmp_path: Path, defect: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(BROKEN[defect]())
    with pytest.raises(FormatError, match="cannot be read as a tar"):
        TarIndex.read(path)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(FormatError, match="not a regular file"):
            TarIndex.read(path)
    with pytest.raises(NotFoundError):
        TarIndex.read(tmp_path / "nothing")


def test_a_written_tar_has_constant_headers_and_is_read_by_everybody(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("w+b") as file:
        tar = TarWriter(file)
        tar.directory("d")
        tar.add("d/known", [b"12", b"3"], 3)
        tar.add("d/unknown", [b"x" * 700])
        tar.close()
    with tarfile.open(path, "r:") as read:
        members = read.getmembers()
        contents = [content.read() for member in members if (content := read.extractfile(member))]
    assert [(member.name, member.mode, member.uid, member.mtime) for member in members] == [
        ("d", 0o755, 0, 315532801),
        ("d/known", 0o644, 0, 315532801),
        ("d/unknown", 0o644, 0, 315532801),
    ]
    assert contents == [b"123", b"x" * 700]
    assert TarIndex.read(path).content("d/unknown", limit=700) == b"x" * 700


def test_a_file_of_another_size_than_announced_is_refused() -> None:
    with pytest.raises(FormatError, match="3 bytes came instead of 4"):
        TarWriter(io.BytesIO()).add("x", [b"123"], 4)


def test_a_file_of_more_than_eight_gibibytes_is_read_in_gnus_spelling_and_in_pax(tmp_path: Path) -> None:
    size = (8 << 30) + 5
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("x")
        info.size = size
        path = tmp_path / "a.tar"
        with path.open("wb") as file:
            file.write(info.tobuf(format))
            file.truncate(file.tell() + size + 507 + 1024)
        member = TarIndex.read(path).find("x")
        assert member is not None
        assert member.size == size


class FirstBlock(io.BytesIO):
    """A file that keeps its first block alone; the position moves as in any other."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() < 512:
            return super().write(data)
        self.seek(len(data), io.SEEK_CUR)
        return len(data)


def test_a_file_of_more_than_eight_gibibytes_is_written_so_that_others_read_its_size() -> None:
    file, chunk = FirstBlock(), bytes(1 << 20)
    TarWriter(file).add("x", (chunk for _ in range((8 << 10) + 1)))
    header = tarfile.TarInfo.frombuf(file.getvalue()[:512], "utf-8", "strict")
    assert header.size == (8 << 30) + (1 << 20)
