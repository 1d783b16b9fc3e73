"""Whatever a path leads to, there is an answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packhorse.base import files
from packhorse.errors import InputError
from packhorse.host.machine import certificates
from packhorse.http.client import find_certificates
from packhorse.oci.registry.mirrors import config_files


def test_what_is_there_is_found_behind_its_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert files.resolve(tmp_path / "link") == tmp_path.resolve() / "file"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    for name in ("nothing", "dangling", "file/below"):
        assert files.resolve(tmp_path / name) is None


@pytest.mark.parametrize("name", ["loop", "a" * 300, "nul\0"])
def test_what_cannot_be_looked_up_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError):
        files.resolve(tmp_path / name)
    with pytest.raises(InputError):
        files.read(tmp_path / name)


def test_no_more_than_a_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"four")
    assert files.read(tmp_path / "file", limit=4) == b"four"
    with pytest.raises(InputError, match="too large"):
        files.read(tmp_path / "file", limit=3)
    with pytest.raises(InputError, match="too large"):
        files.read(Path("/dev/zero"))


def test_pipes_are_read_and_directories_are_not(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"text")
    os.close(write)
    assert files.read(Path(f"/dev/fd/{read}")) == b"text"
    os.close(read)
    with pytest.raises(InputError, match="Is a directory"):
        files.read(tmp_path)


def test_what_is_no_file_is_written_to_by_the_name_it_was_given(tmp_path: Path) -> None:
    """A pipe that is somebody's standard output has no other."""
    read, write = os.pipe()
    (tmp_path / "out").symlink_to(f"/proc/self/fd/{write}")
    files.write(tmp_path / "out", b"data")
    os.close(write)
    with open(read, "rb") as file:
        assert file.read() == b"data"


@pytest.mark.parametrize("path", ["/" + "x" * 300, "/dev/null/below", "/dev"])
def test_what_nobody_can_look_up_is_no_file(path: str) -> None:
    assert not files.is_file(path) and files.is_file(__file__)
    assert certificates({"SSL_CERT_FILE": path}) == certificates({})
    assert config_files({"HOME": path}) == config_files({})
    assert find_certificates("a.example", [Path(path)]) is None
