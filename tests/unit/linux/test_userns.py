"""Which ids a namespace has, and that it really has them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import linux
from packhorse.errors import HostError
from packhorse.linux import bubblewrap, userns, userns_exec
from packhorse.linux.userns import Extent, IdMap, MapMode

SPARE = st.lists(st.tuples(st.just(0), st.integers(1, 40000)), max_size=4).map(
    lambda sizes: [(100_000 + index * 1_000_000, size) for index, (_, size) in enumerate(sizes)]
)


def test_the_invoking_user_stands_among_the_subordinate_ids() -> None:
    assert userns.make_extents(1000, 501, [(100000, 65536)]) == (
        Extent(0, 100000, 1000),
        Extent(1000, 501, 1),
        Extent(1001, 101000, 64535),
    )


def test_several_extents_are_used_one_after_the_other() -> None:
    assert userns.make_extents(1000, 501, [(100000, 600), (300000, 600), (500000, 10)]) == (
        Extent(0, 100000, 600),
        Extent(600, 300000, 400),
        Extent(1000, 501, 1),
        Extent(1001, 300400, 200),
        Extent(1201, 500000, 10),
    )


def test_few_subordinate_ids_leave_a_gap_below_the_user() -> None:
    assert userns.make_extents(1000, 501, [(100000, 10)]) == (Extent(0, 100000, 10), Extent(1000, 501, 1))


@given(st.integers(0, 65535), SPARE)
def test_no_id_is_mapped_twice_on_either_side(inside: int, spare: list[tuple[int, int]]) -> None:
    extents = userns.make_extents(inside, 7, spare)
    for first, second in pairwise(extents):
        assert first.inside + first.count <= second.inside
    outside = sorted((extent.outside, extent.count) for extent in extents)
    for (start, count), (following, _) in pairwise(outside):
        assert start + count <= following
    assert IdMap(MapMode.RANGE, extents, extents).to_outside(inside, inside) == (7, 7)
    assert sum(extent.count for extent in extents) <= userns.SIZE
    for start, count in spare:
        used = [e for e in extents if start <= e.outside < start + count]
        assert all(e.outside + e.count <= start + count for e in used)


def test_ids_are_translated_both_ways() -> None:
    idmap = IdMap(MapMode.RANGE, userns.make_extents(1000, 501, [(100000, 65536)]), (Extent(1000, 20, 1),))
    assert idmap.to_outside(1000, 1000) == (501, 20)
    assert idmap.to_inside(100000, 20) == (0, 1000)
    assert idmap.to_inside(0, 0) == (userns_exec.OVERFLOW, userns_exec.OVERFLOW)
    assert idmap.has(0, 1000) and not idmap.has(70000, 1000) and not idmap.has(0, 0)
    with pytest.raises(HostError, match="user 1000:0 does not exist"):
        idmap.to_outside(1000, 0)


def test_a_key_tells_maps_apart_and_stays_the_same() -> None:
    one = IdMap(MapMode.SINGLE, (Extent(1000, 501, 1),), (Extent(1000, 20, 1),))
    other = IdMap(MapMode.SINGLE, (Extent(1000, 502, 1),), (Extent(1000, 20, 1),))
    assert one.key == "single-e4ec356a08a2"
    assert one.key != other.key
    first = IdMap(MapMode.RANGE, userns.make_extents(0, 501, [(100000, 65536)]), (Extent(0, 20, 1),))
    second = IdMap(MapMode.RANGE, userns.make_extents(1, 501, [(100000, 65536)]), (Extent(0, 20, 1),))
    assert first.key == "range-6f70aa7b3060"
    assert first.key != second.key


def test_maps_of_a_single_id_have_one_key_whatever_the_id_is_inside() -> None:
    keys = {userns.choose_map(uid, uid, mode=MapMode.SINGLE).key for uid in (0, 1000)}
    assert len(keys) == 1


def test_a_single_id_is_the_invoking_users() -> None:
    idmap = userns.choose_map(1234, 1235, mode=MapMode.SINGLE)
    assert idmap.uids == (Extent(1234, os.geteuid(), 1),)
    assert idmap.gids == (Extent(1235, os.getegid(), 1),)


def test_roots_map_leaves_out_the_machines_root() -> None:
    idmap = userns.choose_map(mode=MapMode.ROOT)
    assert all(extent.outside > 0 for extent in idmap.uids + idmap.gids)


def test_in_roots_map_an_id_above_the_others_takes_the_last_one() -> None:
    assert userns.shifted_extents(65535, 5, 65536) == (Extent(0, 5, 65536),)
    assert userns.shifted_extents(65536, 5, 65536) == (Extent(0, 5, 65535), Extent(65536, 65540, 1))
    assert userns.shifted_extents(1000, 5, 2) == (Extent(0, 5, 1), Extent(1000, 6, 1))


def test_maps_are_written_as_they_are_read() -> None:
    ids = ((0, 100000, 1000), (1000, 501, 1))
    assert userns_exec.parse_ids(userns_exec.format_ids(ids)) == ids
    assert userns_exec.has_outside_id(ids, 100999) and not userns_exec.has_outside_id(ids, 101000)


def test_a_directory_of_other_ids_that_is_shut_is_in_the_way(tmp_path: Path) -> None:
    shut = tmp_path / "shut" / "open"
    shut.mkdir(parents=True)
    shut.parent.chmod(0o700)
    own = ((0, os.geteuid(), 1),)
    others = ((0, os.geteuid() + 1, 1),)
    path = str(shut / "file")
    assert str(shut.parent) in userns_exec.find_closed_directories(path, others, others)
    assert str(shut) not in userns_exec.find_closed_directories(path, others, others)
    assert str(shut.parent) not in userns_exec.find_closed_directories(path, own, ((0, os.getegid(), 1),))


def test_every_name_on_the_way_through_links_is_known(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "program").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "name").symlink_to(tmp_path / "link" / "program")
    assert userns.reachable_names([tmp_path / "name"]) == [tmp_path / "name", tmp_path / "real" / "program"]


@pytest.mark.system
def test_an_unknown_option_of_the_entrance_is_refused() -> None:
    done = subprocess.run(
        userns.command("enter", [("colour", "red")]), capture_output=True, text=True, check=False
    )
    assert done.returncode == 125
    assert "unknown option colour" in done.stderr


@pytest.mark.system
def test_userns_exec_starts_without_slow_imports() -> None:
    package = Path(userns.__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(package)!r}); from packhorse.linux import userns_exec; "
        "print(sorted({'pathlib', 're', 'subprocess', 'enum'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


KILLED = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "1000"])
with open("CHILD", "w") as file:
    file.write(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.system
@pytest.mark.parametrize("ignored", [False, True])
def test_a_bubblewrap_that_is_killed_is_not_waited_for_while_its_child_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: bool
) -> None:
    """The child has its stderr, and waits for ever for what its parent would tell it."""
    program = tmp_path / "bwrap"
    program.write_text(f"#!{sys.executable}\n{KILLED}".replace("CHILD", str(tmp_path / "child")))
    program.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "find", lambda: program)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with pytest.raises(HostError, match="ended before"), bubblewrap.unmapped_process():
            pass
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert linux.gone({int((tmp_path / "child").read_text())})
