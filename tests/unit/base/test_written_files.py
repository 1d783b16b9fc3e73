"""Files that a user names are written whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from packhorse.base.files import write
from packhorse.base.target import Target
from packhorse.errors import InputError


def test_a_file_is_replaced_with_its_mode_and_through_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"before")
    real.chmod(0o604)
    link.symlink_to("real")
    write(link, b"after")
    assert link.is_symlink() and real.read_bytes() == b"after" and real.stat().st_mode & 0o777 == 0o604
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write(pipe, b"through")
    reader.join(60)
    assert read == [b"through"] and pipe.is_fifo()


@pytest.mark.parametrize("name", ["missing/x", "file/x", "a" * 300, "nul\0", "."])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError):
        write(tmp_path / name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_targets_are_read_as_they_are_written() -> None:
    for target in (Target("linux", "arm64"), Target("linux", "arm", "v7")):
        assert Target.parse(str(target)) == target
    for wrong in ("", "linux", "linux/", "/arm64", "linux/arm64/v8/x", "Linux/ARM64", "linux/arm 64"):
        with pytest.raises(InputError, match="not a target"):
            Target.parse(wrong)
