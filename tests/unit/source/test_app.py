"""The application directory: whether it can be built from, and what of it is left out."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from fakes.churn import churning
from packhorse.errors import HostError, InputError
from packhorse.source import files


def test_a_directory_with_something_in_it_can_be_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / ".hidden").touch()
    (tmp_path / "link").symlink_to("app")
    monkeypatch.chdir(tmp_path)
    assert files.check(Path("app")) == tmp_path / "app"
    assert files.check(Path("link")) == tmp_path / "app"


@pytest.mark.parametrize(
    ("name", "words"), [("none", "there is no "), ("file", "is not a directory"), ("empty", "is empty")]
)
def test_anything_else_is_refused_with_its_name(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=words) as raised:
        files.check(tmp_path / name)
    assert str(tmp_path / name) in raised.value.what
    assert "--path" in raised.value.why + raised.value.fix


def test_what_is_left_out_is_hidden_by_whiteouts_under_directories_of_the_same_mode(tmp_path: Path) -> None:
    source, target = tmp_path / "app", tmp_path / "hidden"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a").chmod(0o2750)
    target.mkdir()
    for name in (".git", "a/b/x", "a/y"):
        (source / name).touch()
    files.make_whiteouts(source, [".git", "a/b/x", "a/y", "gone/z"], target)
    found = {str(path.relative_to(target)): path.lstat() for path in target.rglob("*")}
    assert set(found) == {".git", "a", "a/b", "a/b/x", "a/y"}
    for name in (".git", "a/b/x", "a/y"):
        assert (stat.S_ISCHR(found[name].st_mode), found[name].st_rdev) == (True, os.makedev(0, 0))
    assert stat.S_IMODE(found["a"].st_mode) == 0o2750


def test_where_whiteouts_cannot_be_made_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    with pytest.raises(HostError, match=r"\.git cannot be left out of the source") as raised:
        files.make_whiteouts(tmp_path, [".git"], tmp_path / "missing")
    assert "PACKHORSE_HOME" in raised.value.fix


def test_a_copy_has_everything_but_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "app", tmp_path / "copy"
    (source / ".git").mkdir(parents=True)
    (source / "sub" / ".git").mkdir(parents=True)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o750)
    (source / "link").symlink_to("/nowhere")
    os.mkfifo(source / "pipe", 0o640)
    # Some devices have no end; this one, which nothing answers, any user may make.
    os.mknod(source / "device", stat.S_IFCHR | 0o666, os.makedev(0, 0))
    (source / "program").touch()
    (source / "program").chmod(0o4755)
    (source / "sticky").mkdir()
    (source / "sticky").chmod(0o1777)
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(source)
        listening.bind("socket")
    (source / "sub" / "secret").touch()
    files.copy(source, target, (os.getuid(), os.getgid()), [".git", "sub/secret"])
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        *("link", "pipe", "program", "run.sh", "sticky", "sub", "sub/.git"),
    ]
    modes = {name: (target / name).lstat().st_mode for name in ("pipe", "program", "sticky")}
    assert stat.S_ISFIFO(modes["pipe"])
    assert {name: stat.S_IMODE(mode) for name, mode in modes.items()} == {
        "pipe": 0o640,
        "program": 0o4755,
        "sticky": 0o1777,
    }
    assert (target / "link").readlink() == Path("/nowhere")
    assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o750
    assert (target / "run.sh").stat().st_uid == os.getuid()


def test_a_copy_keeps_holes_and_what_is_between_them(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    parts = {0: b"first", 5 << 30: b"middle" * 5000, 9 << 30: b"last"}
    for name, end in (("full", 9 << 30), ("hollow", 1 << 42)):
        with (tmp_path / "app" / name).open("wb") as file:
            for at, data in parts.items():
                file.seek(at)
                file.write(data)
            file.truncate(end + 4)
    files.copy(tmp_path / "app", tmp_path / "copy", (os.getuid(), os.getgid()))
    for name in ("full", "hollow"):
        source, copied = ((tmp_path / place / name) for place in ("app", "copy"))
        assert copied.stat().st_size == source.stat().st_size
        assert copied.stat().st_blocks <= source.stat().st_blocks + 64
        with copied.open("rb") as file:
            for at, data in parts.items():
                file.seek(at)
                assert file.read(len(data)) == data


def test_a_source_that_cannot_be_copied_is_told(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "copy").mkdir()
    with pytest.raises(HostError, match="the source cannot be copied") as raised:
        files.copy(tmp_path / "app", tmp_path / "copy", (os.getuid(), os.getgid()))
    assert "copy" in raised.value.why


def test_what_cannot_be_copied_is_named() -> None:
    nobody = os.geteuid() or 65534
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "source").mkdir()
        (folder / "source/a").touch(0o000)
        own = os.geteuid()
        os.seteuid(nobody)  # root reads everything
        try:
            with pytest.raises(HostError) as caught:
                files.copy(folder / "source", folder / "copy", (nobody, os.getegid()))
        finally:
            os.seteuid(own)
    assert str(folder / "source/a") in caught.value.why and "('" not in caught.value.why


@pytest.mark.system
def test_what_goes_while_it_is_copied_is_not_in_the_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "stays").write_text("x")
    with churning(source):
        for number in range(100):
            files.copy(source, tmp_path / str(number), (os.getuid(), os.getgid()))
            assert (tmp_path / str(number) / "stays").read_text() == "x"


def test_a_source_that_goes_itself_is_not_copied_in_part(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    for number in range(10):
        (source / f"{number}").touch()
    # The kernel lets nobody open a file with a lease before its holder has been told and gives it up.
    held = os.open(source / "5", os.O_RDWR)

    def take_away(*_: object) -> None:
        source.rename(tmp_path / "elsewhere")
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    before = signal.signal(signal.SIGIO, take_away)
    try:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with pytest.raises(HostError, match="cannot be copied"):
            files.copy(source, copy, (os.getuid(), os.getgid()))
        assert not source.exists() and copy.exists()
    finally:
        signal.signal(signal.SIGIO, before)
        os.close(held)
