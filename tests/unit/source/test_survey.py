"""One look at every file of a source: whose they are, a stamp of them, and a process that looks meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.churn import churning
from packhorse.source.files import SourceScan, open_scanner, scan_source


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["a/b", "a/link", "a", ".git/x"])
def test_a_source_with_a_second_owner_is_known(tmp_path: Path, name: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x").touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    (tmp_path / "a" / "link").symlink_to("b")
    assert scan_source(tmp_path).has_one_owner
    os.chown(tmp_path / name, 0, 4711, follow_symlinks=False)
    assert not scan_source(tmp_path).has_one_owner
    assert scan_source(tmp_path, excluded=[".git"]).has_one_owner == name.startswith(".git")


def test_a_source_of_another_group_is_not_shown_as_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    own = (os.geteuid(), os.getegid())
    assert scan_source(tmp_path, own).has_one_owner
    assert not scan_source(tmp_path, (own[0], 4711)).has_one_owner


def old(top: Path) -> Path:
    """A source whose files were last touched a while ago."""
    (top / "sub" / ".git").mkdir(parents=True)
    (top / ".git").mkdir()
    (top / ".git" / "index").write_text("1")
    (top / "file").write_text("one")
    (top / "sub" / "file").write_text("two")
    (top / "link").symlink_to("file")
    time.sleep(0.06)  # the clock of a file system ticks every few milliseconds
    return top


def replaced(path: Path) -> None:
    """Another file of the same name, length, mode and time."""
    status, data = path.stat(), path.read_bytes()
    path.rename(path.parent / ".old")
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (path.parent / ".old").unlink()


def overwritten(path: Path) -> None:
    """The same file with other bytes, as many, and its old time."""
    status = path.stat()
    with path.open("r+") as file:
        file.write(path.read_text().upper())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda top: overwritten(top / "file"),
        lambda top: replaced(top / "file"),
        lambda top: (top / "file").write_text("longer"),
        lambda top: (top / "sub" / "file").chmod(0o755),
        lambda top: (top / "sub").chmod(0o700),
        lambda top: (top / "sub" / "file").rename(top / "sub" / "other"),
        lambda top: (top / "link").unlink(),
        lambda top: (top / "new").mkdir(),
        lambda top: (top / "sub" / ".git" / "x").touch(),
        lambda top: os.link(top / "file", top / "twin"),
    ],
)
def test_a_stamp_changes_with_the_source(tmp_path: Path, change: Callable[[Path], object]) -> None:
    before = scan_source(old(tmp_path)).stamp
    assert before and scan_source(tmp_path).stamp == before
    change(tmp_path)
    time.sleep(0.06)
    assert scan_source(tmp_path).stamp not in (before, "")


@pytest.mark.parametrize("seconds", [-100, 1 << 34])
def test_files_of_any_time_have_a_stamp(tmp_path: Path, seconds: int) -> None:
    top = old(tmp_path)
    before = scan_source(top).stamp
    os.utime(top / "file", (seconds, seconds))
    time.sleep(0.06)
    assert scan_source(top).stamp not in (before, "")


def test_a_stamp_does_not_change_with_what_is_left_out(tmp_path: Path) -> None:
    left_out = [".git", "sub/file", "\udcff"]
    before = scan_source(old(tmp_path), excluded=left_out)
    (tmp_path / ".git" / "index").write_text("another")
    overwritten(tmp_path / "sub" / "file")
    assert scan_source(tmp_path, excluded=left_out) == before
    assert scan_source(tmp_path, excluded=left_out[:2]).stamp not in (before.stamp, "")


@pytest.mark.system
def test_a_survey_that_goes_on_meanwhile_leaves_out_the_same(tmp_path: Path) -> None:
    top = old(tmp_path)
    (top / "\udcff").touch()
    left_out = ["sub/file", "\udcff", *(f"none-{number}" for number in range(100_000))]
    time.sleep(0.06)
    with open_scanner(top, excluded=left_out, inline_limit=0) as under_way:
        assert under_way.wait() == scan_source(top, excluded=left_out) != scan_source(top)


def test_there_is_no_stamp_while_a_file_may_still_change_within_a_tick(tmp_path: Path) -> None:
    before = scan_source(old(tmp_path)).directory_stamps
    found = scan_source(tmp_path)
    while found.stamp:  # a busy machine may take longer than a tick
        (tmp_path / "sub" / "file").write_text("new")
        found = scan_source(tmp_path)
    assert found == SourceScan(has_one_owner=True, directory_stamps={**before, "sub": ""}, size=found.size)
    assert all(before.values())


def test_a_stamp_changes_when_something_was_there_and_is_gone(tmp_path: Path) -> None:
    before = scan_source(old(tmp_path))
    (tmp_path / "sub" / "lock").touch()
    (tmp_path / "sub" / "lock").unlink()
    after = scan_source(tmp_path)
    assert after.stamp not in (before.stamp, "") and after.directory_stamps == before.directory_stamps


def children() -> set[str]:
    return set(
        Path("/proc/self/task/self/children".replace("/self/c", f"/{os.getpid()}/c")).read_text().split()
    )


@pytest.mark.system
@pytest.mark.parametrize("few", [0, 1, 5, 6, 7, 100])
def test_a_survey_that_goes_on_meanwhile_finds_the_same(tmp_path: Path, few: int) -> None:
    top = old(tmp_path)
    before = children()
    with open_scanner(top, inline_limit=few) as under_way:
        assert (under_way.known is None) == (children() > before)
        assert under_way.wait() == under_way.wait() == under_way.known == scan_source(top)
        assert under_way.wait().stamp
    assert children() == before


@pytest.mark.parametrize("name", ["plain", "é", "\udcff", "a b\n", "..."])
def test_of_a_survey_that_was_cut_off_nothing_is_believed(tmp_path: Path, name: str) -> None:
    top = old(tmp_path)
    (top / name / "below").mkdir(parents=True)
    found = scan_source(top, excluded=[".git"])
    assert found.directory_stamps.keys() == {"", "sub", "sub/.git", name, f"{name}/below"}
    data = found.encode()
    assert SourceScan.decode(data) == found
    assert all(SourceScan.decode(data[:length]) is None for length in range(len(data)))


@pytest.mark.system
def test_a_survey_that_nobody_waits_for_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(ZeroDivisionError), open_scanner(old(tmp_path), inline_limit=0):
        assert children() > before
        1 / 0  # noqa: B018
    assert children() == before


@pytest.mark.system
def test_a_survey_is_made_here_where_its_process_was_killed(tmp_path: Path) -> None:
    top = old(tmp_path)
    before = children()
    with open_scanner(top, inline_limit=0) as under_way:
        for pid in children() - before:
            os.kill(int(pid), signal.SIGKILL)
        assert under_way.wait() == scan_source(top)


@pytest.mark.system
def test_a_name_that_is_no_text_is_handed_to_the_process(tmp_path: Path) -> None:
    top = old(tmp_path / "\udcff é")
    with open_scanner(top, inline_limit=0) as under_way:
        assert under_way.wait() == scan_source(top) != SourceScan(has_one_owner=False)


def test_what_is_known_is_not_looked_at(tmp_path: Path) -> None:
    with open_scanner(tmp_path / "none", known=SourceScan(has_one_owner=True, stamp="x")) as under_way:
        assert under_way.wait().stamp == "x"


def test_of_a_source_of_another_owner_nothing_is_begun_before_it_is_known(tmp_path: Path) -> None:
    top, other = old(tmp_path), (os.geteuid(), 4711)
    with open_scanner(top, other, inline_limit=0) as under_way:
        assert under_way.known == scan_source(top, other)
        assert not scan_source(top, other).has_one_owner and scan_source(top, other).stamp


def test_what_goes_while_it_is_looked_at_leaves_no_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kept", "file-goes", "goes/sub"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("kept", "file-goes"):
        (tmp_path / name / "file").touch()
    time.sleep(0.06)
    scandir = os.scandir

    class Going:
        """A directory that is listed, of which something has gone before it is looked at."""

        def __init__(self, path: str) -> None:
            if path == f"{tmp_path}/goes/sub":
                Path(path).rmdir()
            with scandir(path) as entries:
                self._found = list(entries)
            if path == f"{tmp_path}/file-goes":
                Path(path, "file").unlink()

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self._found)

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Going)
    found = scan_source(tmp_path)
    assert (found.stamp, found.has_one_owner) == ("", True)
    assert {path for path, stamp in found.directory_stamps.items() if not stamp} == {"file-goes", "goes/sub"}


def test_somebody_may_work_in_what_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with churning(tmp_path / "work"):
        for _ in range(300):
            assert scan_source(tmp_path).has_one_owner


def test_a_source_that_is_deeper_than_a_path_can_say_has_no_stamp(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=here)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert scan_source(tmp_path) == scan_source(tmp_path / "gone") == SourceScan(has_one_owner=False)
