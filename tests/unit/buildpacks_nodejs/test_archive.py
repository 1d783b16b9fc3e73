"""Archives of packages are unpacked without trusting their paths, modes or links."""

import io
import tarfile
from pathlib import Path

import pytest
from nodejs.archive import unpack

from packhorse.errors import FormatError


def archive(path: Path, **members: tuple[bytes, int, bytes]) -> Path:
    """Members by name: type, mode, content."""
    with tarfile.open(path, "w:gz") as tar:
        for name, (kind, mode, content) in members.items():
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size = kind, mode, len(content)
            member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
            tar.addfile(member, io.BytesIO(content))
    return path


def test_modes_are_two_and_links_are_left_out(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.tgz",
        **{
            "package/bin/node": (tarfile.REGTYPE, 0o777, b"x"),
            "package/LICENSE": (tarfile.REGTYPE, 0o600, b"y"),
            "package/link": (tarfile.SYMTYPE, 0o777, b""),
            "package/left/out": (tarfile.REGTYPE, 0o644, b"z"),
        },
    )
    out = tmp_path / "out"
    unpack(path, lambda inner: None if inner.parts[0] == "left" else out / inner)
    files = {
        str(file.relative_to(out)): file.stat().st_mode & 0o777 for file in out.rglob("*") if file.is_file()
    }
    assert files == {"bin/node": 0o755, "LICENSE": 0o644}


@pytest.mark.parametrize("name", ["package/../../evil", "/evil", "alone"])
def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.tgz", **{name: (tarfile.REGTYPE, 0o644, b"x")})
    with pytest.raises(FormatError, match="outside"):
        unpack(path, lambda inner: tmp_path / "out" / inner)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    path = archive(tmp_path / "a.tgz", **{"package/x": (tarfile.REGTYPE, 0o644, content)})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match=r"a\.tgz"):
        unpack(path, lambda inner: tmp_path / "out" / inner)


def test_an_archive_without_end_is_refused(tmp_path: Path) -> None:
    content = (tarfile.REGTYPE, 0o644, bytes(1 << 20))
    path = archive(tmp_path / "a.tgz", **{"package/x": content, "package/y": content})
    for kept in (True, False):
        with pytest.raises(FormatError, match=r"a\.tgz holds more than 1 MiB"):
            unpack(path, lambda inner, kept=kept: tmp_path / inner if kept else None, largest=1 << 20)
    with pytest.raises(FormatError, match=r"a\.tgz has more than 1 entries"):
        unpack(path, lambda inner: tmp_path / inner, most=1)
    unpack(path, lambda inner: tmp_path / inner, most=2)


def test_bytes_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tgz", **{"package/x": (tarfile.REGTYPE, 0o644, bytes(1 << 16))})
    data = path.read_bytes()
    for broken in (b"", b"<html>", data[:30] + b"\xff" * 30 + data[60:]):
        path.write_bytes(broken)
        with pytest.raises(FormatError, match=r"cannot unpack a\.tgz"):
            unpack(path, lambda inner: tmp_path / "out" / inner)
