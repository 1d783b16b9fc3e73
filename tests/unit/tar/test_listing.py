"""What a layer holds, told without unpacking it."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest

from packhorse.errors import FormatError
from packhorse.tar.listing import EntryKind, ListedEntry, list_entries, merge_layers, pick_files
from packhorse.tar.unpack import UnpackLimits


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> Iterator[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return iter([out.getvalue()])


def _member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def test_each_entry_is_told_by_its_path() -> None:
    found = list_entries(
        _tar(
            _member("./", type=tarfile.DIRTYPE, mode=0o755),
            _member("./a/file", b"data", mode=0o4711, uid=3, gid=4),
            _member("/a/link", type=tarfile.SYMTYPE, linkname="../b"),
            _member("a/again", type=tarfile.LNKTYPE, linkname="a/file"),
            _member("a/pipe", type=tarfile.FIFOTYPE),
            _member("a/null", type=tarfile.CHRTYPE),
            _member("a/.wh.gone"),
            _member("b/.wh..wh..opq"),
        )
    )
    assert {path: entry.kind for path, entry in found.items()} == {
        ".": EntryKind.DIRECTORY,
        "a/file": EntryKind.FILE,
        "a/link": EntryKind.LINK,
        "a/again": EntryKind.HARD_LINK,
        "a/pipe": EntryKind.FIFO,
        "a/null": EntryKind.DEVICE,
        "a/gone": EntryKind.REMOVED,
        "b/": EntryKind.EMPTIED,
    }
    file = found["a/file"]
    assert (file.mode, file.uid, file.gid, file.size) == (0o4711, 3, 4, 4)
    assert found["a/link"].link == "../b" and found["a/again"].link == "a/file"


def test_extended_attributes_are_told_and_long_ones_by_their_digest() -> None:
    headers = {"SCHILY.xattr.user.b": "x" * 65, "SCHILY.xattr.user.a": "\x00y", "SCHILY.other": "z"}
    found = list_entries(_tar(_member("file", pax_headers=headers), _member("other")))
    digest = hashlib.sha256(b"x" * 65).hexdigest()
    assert found["file"].attributes == (("user.a", "0079"), ("user.b", f"sha256:{digest}"))
    assert found["other"].attributes == ()


def test_names_of_extended_attributes_count_as_paths_do() -> None:
    many = [
        _member(str(number), pax_headers={f"SCHILY.xattr.{'n' * 1000}{number}": ""}) for number in range(9)
    ]
    list_entries(_tar(*many), limits=UnpackLimits(paths=10_000))
    with pytest.raises(FormatError, match="very long names"):
        list_entries(_tar(*many), limits=UnpackLimits(paths=9_000))


def test_equal_bytes_have_one_digest_and_a_later_entry_counts() -> None:
    found = list_entries(
        _tar(_member("a", b"x"), _member("b", b"x"), _member("c", b"old"), _member("c", b"new"))
    )
    assert found["a"].content == found["b"].content != found["c"].content
    assert found["c"] == list_entries(_tar(_member("c", b"new")))["c"]
    assert isinstance(found["a"], ListedEntry)


def test_layers_are_laid_on_one_another() -> None:
    below = list_entries(
        _tar(*(_member(name, b"x") for name in ("a/b", "a/c", "a/d/e", "f", "g/h", "g/i/j", "k")))
    )
    above = list_entries(
        _tar(
            _member("a/.wh.b"),
            _member("a/.wh.d"),
            _member("g/.wh..wh..opq"),
            _member("g/new", b"y"),
            _member("f", type=tarfile.SYMTYPE, linkname="k"),
            _member("far/.wh.away"),
        )
    )
    found = merge_layers(below, above)
    assert {path: entry.kind for path, entry in found.items()} == {
        "a/b": EntryKind.REMOVED,
        "a/c": EntryKind.FILE,
        "a/d": EntryKind.REMOVED,
        "f": EntryKind.LINK,
        "g/": EntryKind.EMPTIED,
        "g/new": EntryKind.FILE,
        "k": EntryKind.FILE,
        "far/away": EntryKind.REMOVED,
    }


def test_files_that_are_wanted_are_read_and_no_links() -> None:
    picked = pick_files(
        _tar(
            _member("etc/x", b"one"),
            _member("etc/y", type=tarfile.SYMTYPE, linkname="x"),
            _member("etc/z", b"other"),
            _member("var/.wh.lib"),
            _member("usr/.wh..wh..opq"),
        ),
        lambda path: path in ("etc/x", "etc/y"),
        limit=10,
    )
    assert picked.files == {"etc/x": b"one"} and picked.hidden == {"var/lib", "usr/"}


def test_a_file_that_became_a_link_is_no_file() -> None:
    members = _member("x", b"one"), _member("x", type=tarfile.SYMTYPE, linkname="y")
    assert pick_files(_tar(*members), lambda path: True, limit=10).files == {}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/.."])
def test_a_path_that_leads_out_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="leads out"):
        list_entries(_tar(_member(name)))


def test_limits_hold() -> None:
    with pytest.raises(FormatError, match="more than 1 entries"):
        list_entries(_tar(_member("a"), _member("b")), limits=UnpackLimits(entries=1))
    with pytest.raises(FormatError, match="unpacks to more"):
        list_entries(_tar(_member("a", b"xx")), limits=UnpackLimits(bytes=1))
    with pytest.raises(FormatError, match="at most 1 bytes"):
        pick_files(_tar(_member("a", b"xx")), lambda path: True, limit=1)
    with pytest.raises(FormatError, match="unknown tar type"):
        list_entries(_tar(_member("a", type=b"Z")))
    with pytest.raises(FormatError, match="not a valid tar"):
        list_entries(iter([b"x" * 512]))


@pytest.mark.parametrize("blocks", range(5))
def test_a_stream_that_fails_between_two_entries_is_not_taken_for_its_end(blocks: int) -> None:
    (data,) = _tar(_member("a", b"a"), _member("b", b"b"))

    def broken() -> Iterator[bytes]:
        for at in range(blocks):
            yield data[at * 512 : at * 512 + 512]
        raise FormatError("the stream is broken")

    with pytest.raises(FormatError, match="the stream is broken"):
        list_entries(broken())
