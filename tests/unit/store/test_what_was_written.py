"""The digest of an overlay's upper: the same for the same content, another for all that shows otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.small_tree import nest
from packhorse.fs.compare import upperdir_digest


def fill(top: Path) -> Path:
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "dir" / "file").write_bytes(b"some bytes")
    (top / "dir" / "deep" / "other").write_bytes(b"x" * 3_000_000)
    (top / "link").symlink_to("dir/file")
    (top / "gone").parent.mkdir(exist_ok=True)
    os.mknod(top / "gone", 0o020000, os.makedev(0, 0))
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return top


def rewrite(path: Path, data: bytes) -> None:
    """Other bytes in the same file, of the same length and time."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda top: rewrite(top / "dir" / "file", b"same bytes"),
    "bytes far in": lambda top: rewrite(top / "dir/deep/other", b"x" * 2_999_999 + b"y"),
    "length": lambda top: (top / "dir" / "file").write_bytes(b"some bytes\n"),
    "mode": lambda top: (top / "dir" / "file").chmod(0o755),
    "mode of a directory": lambda top: (top / "dir").chmod(0o700),
    "name": lambda top: (top / "dir" / "file").rename(top / "dir" / "files"),
    "place": lambda top: (top / "dir" / "file").rename(top / "file"),
    "link": lambda top: relink(top / "link", "dir/deep/other"),
    "kind": lambda top: ((top / "link").unlink(), (top / "link").write_bytes(b"dir/file")),
    "no longer hidden": lambda top: (top / "gone").unlink(),
    "something hidden": lambda top: os.mknod(top / "dir/gone", 0o020000, os.makedev(0, 0)),
    "an empty directory": lambda top: (top / "new").mkdir(),
    "a pipe": lambda top: os.mkfifo(top / "pipe"),
    "all below hidden": lambda top: os.setxattr(top / "dir", "user.overlay.opaque", b"y"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_makes_another_digest(tmp_path: Path, change: str) -> None:
    first, second = fill(tmp_path / "first"), fill(tmp_path / "second")
    digest = upperdir_digest(first)
    assert len(digest) == 64 and upperdir_digest(second) == digest
    CHANGES[change](second)
    assert upperdir_digest(second) not in (digest, "")


def test_what_is_too_much_to_read_twice_has_none(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 42)
    assert upperdir_digest(tmp_path) == ""


def test_what_is_nested_without_end_has_none(tmp_path: Path) -> None:
    nest(tmp_path, 310)
    assert upperdir_digest(tmp_path) == ""


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / "link").symlink_to(tmp_path / "outside")
    before = upperdir_digest(tmp_path / "upper")
    (tmp_path / "outside").write_text("secret")
    assert upperdir_digest(tmp_path / "upper") == before != ""


def test_what_is_not_there_has_none(tmp_path: Path) -> None:
    assert upperdir_digest(tmp_path / "nothing") == ""
