"""Unpacking a layer: what a tar says is done inside the target, and nothing anywhere else."""

from __future__ import annotations

import io
import os
import resource
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from packhorse.errors import FormatError, HostError
from packhorse.tar.unpack import UnpackLimits, UnpackResult, unpack

Entry = tuple[str, bytes, str | bytes]  # name, tar type, content or link target

FILE, DIR, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
DEFAULT = UnpackLimits()


def _archive(entries: list[Entry], *, format: int = tarfile.PAX_FORMAT, mode: int = 0o755) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, 1_000_000_000
            if isinstance(content, str):
                info.linkname = content
                content = b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _chunks(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("kept")
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def nothing_outside(tmp_path: Path) -> Iterator[None]:
    yield
    if (tmp_path / "outside").exists():
        assert [path.name for path in tmp_path.iterdir() if path.name not in ("target", "outside")] == []
        assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]
        assert (tmp_path / "outside" / "kept").read_text() == "kept"


def _unpack(
    entries: list[Entry], target: Path, *, limits: UnpackLimits = DEFAULT, format: int = tarfile.PAX_FORMAT
) -> UnpackResult:
    return unpack(_chunks(_archive(entries, format=format)), target, owner=False, limits=limits)


def test_files_directories_and_links_arrive_with_mode_and_time(target: Path) -> None:
    entries: list[Entry] = [("d", DIR, b""), ("d/f", FILE, b"text"), ("d/l", LINK, "f"), ("d/h", HARD, "d/f")]
    told = unpack(_chunks(_archive(entries, mode=0o4711)), target, owner=False)
    assert told == UnpackResult(4, 4, 0, (), (), ("",))
    assert (target / "d/f").read_bytes() == b"text"
    assert stat.S_IMODE((target / "d/f").stat().st_mode) == 0o4711
    assert [path.lstat().st_mtime for path in (target / "d", target / "d/f", target / "d/l")] == [1e9] * 3
    assert os.readlink(target / "d/l") == "f"
    assert (target / "d/h").samefile(target / "d/f")


def test_a_read_only_directory_gets_its_entries_before_its_mode(target: Path) -> None:
    unpack(_chunks(_archive([("ro", DIR, b""), ("ro/f", FILE, b"")], mode=0o555)), target, owner=False)
    assert stat.S_IMODE((target / "ro").stat().st_mode) == 0o555
    assert (target / "ro/f").exists()


def test_the_top_may_have_an_entry(target: Path) -> None:
    unpack(_chunks(_archive([("./", DIR, b""), ("./f", FILE, b"")], mode=0o750)), target, owner=False)
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_a_descriptor_is_as_good_a_target_as_a_path(target: Path) -> None:
    descriptor = os.open(target, os.O_RDONLY)
    unpack([_archive([("f", FILE, b"x")])], descriptor, owner=False)
    os.close(descriptor)
    assert (target / "f").read_bytes() == b"x"


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_every_tar_format_is_read_in_any_chunking(format: int, size: int, target: Path) -> None:
    name = "/".join(["n" * 60] * 3)
    entries: list[Entry] = [(name, FILE, b"x" * 1000), ("l", LINK, "t" * 100), ("end", FILE, b"")]
    unpack(_chunks(_archive(entries, format=format), size), target, owner=False)
    assert (target / name).read_bytes() == b"x" * 1000
    assert os.readlink(target / "l") == "t" * 100
    assert (target / "end").exists()


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read(format: int, target: Path) -> None:
    name, link = "é" * 120 + "/\udcff", "ü" * 200
    _unpack([(name, FILE, b"x"), ("l", LINK, link)], target, format=format)
    assert (target / name).read_bytes() == b"x"
    assert os.readlink(target / "l") == link


def test_absolute_names_and_dots_mean_the_top(target: Path) -> None:
    _unpack([("/etc/a", FILE, b"1"), ("./etc/./b", FILE, b"2"), ("//etc//c", FILE, b"3")], target)
    assert sorted(path.name for path in (target / "etc").iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["../outside/x", "a/../../outside/x", "/../x", "..", "a/.."])
@pytest.mark.parametrize("kind", [FILE, DIR])
def test_a_name_that_goes_up_is_refused(name: str, kind: bytes, target: Path) -> None:
    with pytest.raises(FormatError, match="leads out"):
        _unpack([(name, kind, b"")], target)


@pytest.mark.parametrize("link", ["/", "..", "../..", "/..", "../outside", "sub/../../../outside"])
def test_an_entry_through_a_link_stays_inside(link: str, target: Path) -> None:
    _unpack(
        [("sub", DIR, b""), ("l", LINK, link), ("l/outside/kept", FILE, b"new"), ("l/f", FILE, b"")], target
    )
    inside = [path for path in target.rglob("kept") if not path.is_symlink()]
    assert [path.read_bytes() for path in inside] == [b"new"]
    assert len([path for path in target.rglob("f") if path.is_file()]) == 1


def test_an_absolute_link_in_the_way_starts_at_the_top_of_the_layer(target: Path) -> None:
    _unpack(
        [("usr/lib", DIR, b""), ("lib", LINK, "/usr/lib"), ("lib/x", FILE, b"1"), ("lib/y/z", FILE, b"2")],
        target,
    )
    assert (target / "usr/lib/x").read_bytes() == b"1"
    assert (target / "usr/lib/y/z").read_bytes() == b"2"
    assert (target / "lib").is_symlink()


def test_a_dangling_link_in_the_way_is_given_its_directory(target: Path, tmp_path: Path) -> None:
    told = _unpack([("l", LINK, f"{tmp_path}/outside/new"), ("l/f", FILE, b"1")], target)
    assert (target / str(tmp_path)[1:] / "outside/new/f").read_bytes() == b"1"
    assert told.implied[-1] == f"{tmp_path}/outside/new"[1:]


def test_a_loop_of_links_is_refused(target: Path) -> None:
    with pytest.raises(FormatError, match="too many links"):
        _unpack([("a", LINK, "b"), ("b", LINK, "a"), ("a/x", FILE, b"")], target)


def test_links_that_grow_their_own_way_are_refused(target: Path) -> None:
    with pytest.raises(FormatError):
        _unpack([("a", LINK, "a/" * 1500 + "x"), ("a/x", FILE, b"")], target)


def test_a_file_is_never_written_through_a_link(target: Path, tmp_path: Path) -> None:
    _unpack([("l", LINK, str(tmp_path / "outside" / "kept")), ("l", FILE, b"new")], target)
    assert (target / "l").read_bytes() == b"new"
    assert not (target / "l").is_symlink()


def test_an_entry_below_a_file_is_refused(target: Path) -> None:
    with pytest.raises(FormatError, match="not a directory"):
        _unpack([("f", FILE, b""), ("f/x", FILE, b"")], target)


@pytest.mark.parametrize(
    "source", ["../outside/kept", "/../outside/kept", "missing", "l/outside/kept", "/", "d"]
)
def test_a_hard_link_to_what_the_layer_does_not_have_is_refused(source: str, target: Path) -> None:
    with pytest.raises(FormatError):
        _unpack([("d", DIR, b""), ("l", LINK, "../.."), ("h", HARD, source)], target)


def test_a_hard_link_to_a_link_links_the_link(target: Path, tmp_path: Path) -> None:
    _unpack([("l", LINK, str(tmp_path / "outside" / "kept")), ("h", HARD, "l"), ("h", FILE, b"new")], target)
    assert (target / "h").read_bytes() == b"new"


def test_a_hard_link_to_itself_changes_nothing(target: Path) -> None:
    _unpack([("f", FILE, b"x"), ("./f", HARD, "/f")], target)
    assert (target / "f").read_bytes() == b"x"


def test_writing_over_a_hard_link_leaves_the_other_name(target: Path) -> None:
    _unpack([("a", FILE, b"old"), ("b", HARD, "a"), ("b", FILE, b"new")], target)
    assert (target / "a").read_bytes() == b"old"


def test_the_last_of_two_entries_wins(target: Path) -> None:
    _unpack(
        [
            ("file-file", FILE, b"1"), ("file-file", FILE, b"2"),
            ("dir-file/x/y", FILE, b""), ("dir-file", FILE, b"3"),
            ("file-dir", FILE, b""), ("file-dir", DIR, b""), ("file-dir/x", FILE, b"4"),
            ("link-dir", LINK, "file-dir"), ("link-dir", DIR, b""), ("link-dir/x", FILE, b"5"),
            ("dir-dir/x", FILE, b"6"), ("dir-dir", DIR, b""),
            ("dir-link/x", FILE, b""), ("dir-link", LINK, "file-dir"), ("dir-link/y", FILE, b"7"),
        ],
        target,
    )  # fmt: skip
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {
        "file-file": b"2", "dir-file": b"3", "file-dir/x": b"4", "link-dir/x": b"5",
        "dir-dir/x": b"6", "file-dir/y": b"7",
    }  # fmt: skip


def test_whiteouts_are_told_and_not_written(target: Path) -> None:
    told = _unpack(
        [
            ("d/.wh.gone", FILE, b""),
            ("d/.wh..wh..opq", FILE, b""),
            (".wh.top", FILE, b""),
            ("d/.wh..wh.plnk", DIR, b""),
        ],
        target,
    )
    assert (told.whiteouts, told.opaque) == (("d/gone", "top"), ("d",))
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(name: str, target: Path) -> None:
    with pytest.raises(FormatError):
        _unpack([(name, FILE, b"")], target)


def test_directories_without_an_entry_are_told(target: Path) -> None:
    told = _unpack([("a/b/f", FILE, b""), ("a", DIR, b"")], target)
    assert told.implied == ("", "a/b")
    assert _unpack([("./", DIR, b"")], target).implied == ()
    assert stat.S_IMODE((target / "a/b").stat().st_mode) == 0o755


def test_a_fifo_arrives_with_mode_and_time(target: Path) -> None:
    unpack(
        _chunks(_archive([("d/p", tarfile.FIFOTYPE, b""), ("h", HARD, "d/p")], mode=0o624)),
        target,
        owner=False,
    )
    found = (target / "d/p").lstat()
    assert (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)) == (stat.S_IFIFO, 0o624)
    assert (found.st_mtime, found.st_nlink) == (1e9, 2)


def test_devices_are_not_made_and_hide_what_they_would_have_replaced(target: Path) -> None:
    told = _unpack(
        [
            ("c", FILE, b"old"),
            ("c", tarfile.CHRTYPE, b""),
            ("d/b", DIR, b""),
            ("d/b", tarfile.BLKTYPE, b""),
        ],
        target,
    )
    assert (told.skipped, told.whiteouts) == (2, ("c", "d/b"))
    assert [str(path.relative_to(target)) for path in target.rglob("*")] == ["d"]


def test_a_directory_in_place_of_something_else_is_empty_whatever_is_below(target: Path) -> None:
    told = _unpack(
        [("a", FILE, b""), ("a", DIR, b""), ("b/c", LINK, "/a"), ("b/c", DIR, b""), ("d", DIR, b"")], target
    )
    assert told.opaque == ("a", "b/c")


@pytest.mark.parametrize("entry", [(".wh.a/f", FILE, b""), ("l/f", FILE, b""), (".wh.a/.wh.b", FILE, b"")])
def test_what_lies_below_a_whiteout_is_refused(entry: Entry, target: Path) -> None:
    with pytest.raises(FormatError, match="those of whiteouts"):
        _unpack([("l", LINK, ".wh.x"), entry], target)


def test_what_aufs_linked_through_its_own_directory_is_there_without_it(target: Path) -> None:
    told = _unpack(
        [(".wh..wh.plnk", DIR, b""), (".wh..wh.plnk/7.9", FILE, b"x"), ("a", HARD, ".wh..wh.plnk/7.9")],
        target,
    )
    assert (target / "a").read_bytes() == b"x"
    assert [path.name for path in target.iterdir()] == ["a"]
    assert (told.whiteouts, told.implied) == ((), ("",))


@pytest.mark.parametrize(
    ("limits", "entries"),
    [
        (UnpackLimits(entries=2), [("a", FILE, b""), ("b", FILE, b""), ("c", FILE, b"")]),
        (UnpackLimits(entries=3), [("a/b/c/d/e", FILE, b"")]),
        (UnpackLimits(bytes=9), [("a", FILE, b"12345"), ("b", FILE, b"12345")]),
        (UnpackLimits(name=4), [("12345", FILE, b"")]),
        (UnpackLimits(depth=3), [("a/b/c/d", FILE, b"")]),
        (UnpackLimits(depth=3), [("a/b/c", DIR, b""), ("l", LINK, "a/b/c"), ("l/d", DIR, b"")]),
        (UnpackLimits(paths=50), [("l", LINK, "x" * 20), ("l/a", DIR, b""), ("l/b", DIR, b"")]),
        (UnpackLimits(paths=50), [("b/.wh." + "a" * 20, FILE, b"") for _ in range(3)]),
        (UnpackLimits(lookups=9), [("a", LINK, "b"), ("b", LINK, "/c" * 9), ("a/x", FILE, b"")]),
    ],
    ids=[
        *("entries", "implied directories", "bytes", "name", "depth", "depth through a link"),
        *("paths through a link", "paths of whiteouts", "lookups"),
    ],
)  # fmt: skip
def test_a_limit_passed_is_refused(limits: UnpackLimits, entries: list[Entry], target: Path) -> None:
    with pytest.raises(FormatError):
        _unpack(entries, target, limits=limits)


def test_a_size_beyond_the_limit_is_refused_before_it_is_read(target: Path) -> None:
    info = tarfile.TarInfo("big")
    info.size = 1 << 40
    with pytest.raises(FormatError, match="more than"):
        unpack([info.tobuf(tarfile.PAX_FORMAT)], target, owner=False)


def test_ids_that_cannot_be_given_are_named(target: Path) -> None:
    info = tarfile.TarInfo("f")
    info.uid = (1 << 32) - 1
    with pytest.raises(FormatError, match="belongs to"):
        unpack([info.tobuf(tarfile.PAX_FORMAT)], target, owner=True)


def test_an_owner_that_is_not_ours_to_give_is_an_error_of_the_host(target: Path) -> None:
    info = tarfile.TarInfo("f")
    info.uid = 54321
    descriptor = os.open(target, os.O_RDONLY)
    before = os.geteuid()
    if before == 0:
        os.chown(target, 12345, -1)
        os.seteuid(12345)
    try:
        with pytest.raises(HostError, match="belongs to 54321"):
            unpack([info.tobuf(tarfile.PAX_FORMAT)], descriptor, owner=True)
    finally:
        os.seteuid(before)
        os.close(descriptor)


def test_owners_are_given_where_they_are_ours_to_give(target: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("d", DIR), ("d/f", FILE), ("d/l", LINK), ("d/p", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, "f", 0o755
            info.uid, info.gid = os.getuid() or 12345, os.getgid() or 54321
            archive.addfile(info)
    unpack([out.getvalue()], target, owner=True)
    for path in target.rglob("*"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (os.getuid() or 12345, os.getgid() or 54321)


def test_too_few_descriptors_are_an_error_of_the_host(target: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 8, before[1]))
    try:
        with pytest.raises(HostError, match="cannot be unpacked") as raised:
            _unpack([("/".join("d" * 60), DIR, b"")], target)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert raised.value.check == "limits"


def test_a_directory_that_is_closed_to_us_is_an_error_of_the_host(target: Path) -> None:
    descriptor = os.open(target, os.O_RDONLY)
    before = os.geteuid()
    target.chmod(0o555)
    if before == 0:
        os.chown(target, 12345, -1)
        os.seteuid(12345)
    try:
        with pytest.raises(HostError, match="f cannot be unpacked"):
            unpack([_archive([("f", FILE, b"")])], descriptor, owner=False)
    finally:
        os.seteuid(before)
        os.close(descriptor)
        target.chmod(0o755)


def test_the_whole_stream_is_read_even_after_the_end_of_the_archive(target: Path) -> None:
    chunks = iter([_archive([("f", FILE, b"")]), bytes(10_000), b"trailing"])
    unpack(chunks, target, owner=False)
    assert next(chunks, None) is None


def test_an_empty_stream_is_an_empty_layer(target: Path) -> None:
    assert unpack([], target, owner=False) == UnpackResult(0, 0, 0, (), (), ("",))


def test_a_missing_target_is_an_error_with_a_name(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        unpack([], tmp_path / "missing", owner=False)
