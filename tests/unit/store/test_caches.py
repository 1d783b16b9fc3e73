"""What is kept for next builds: what it takes of the disk, and what goes first."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from packhorse.base.digest import Digest
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import MapMode, choose_map
from packhorse.store.layer_cache import Cache
from packhorse.store.store import Store

MB = 1 << 20


def build(store: Store, app: str, *, like: str = "", **files: int) -> None:
    """Builds `app` on what `like` has, with files of so many bytes in its one layer, and records it."""
    with store.scratch() as scratch, RootedTree.open_local(scratch) as view:
        idmap = choose_map(1000, 1000, mode=MapMode.SINGLE)
        overlay = store.open_layers(app, idmap, uid=1000, gid=1000, scratch=scratch, family="f", like=like)
        for digest in before(store, like or app):
            assert overlay.restore("/layers/bp/one", digest)
        upper = overlay.mounts()[0].upper
        assert upper
        (upper / "bp/one").mkdir(parents=True)
        for name, length in files.items():
            (upper / "bp/one" / name).write_bytes(os.urandom(1) * length)
        layer, _ = overlay.capture(view, "/layers/bp/one")
        assert layer.diff_id
        overlay.commit(b"", {"/layers/bp/one": layer.diff_id})


def before(store: Store, app: str) -> list[Digest]:
    path = store.path / "caches" / f"{Digest.of(app.encode()).hex[:32]}.json"
    fields = json.loads(path.read_text()) if path.exists() else {"layers": {}}
    return [Digest.parse(text) for text in fields["layers"].values()]


def old(store: Store, app: str, seconds: int) -> None:
    path = store.path / "caches" / f"{Digest.of(app.encode()).hex[:32]}.json"
    os.utime(path, (seconds, seconds))


def found(store: Store) -> dict[str, Cache]:
    return {cache.app: cache for cache in store.caches().caches}


def about(size: int, expected: int) -> bool:
    return expected <= size <= expected + 64_000


def test_an_empty_store_keeps_nothing(store: Store) -> None:
    survey = store.caches()
    assert (survey.caches, survey.total) == ((), 0)
    assert store.caches_beyond(0) == ()


def test_files_that_two_apps_share_are_counted_once_and_free_nothing_alone(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        build(store, "a", large=3 * MB)
        build(store, "b", like="a", small=MB)
    with Store.open(tmp_path / "store") as store:
        a, b = found(store)["a"], found(store)["b"]
        assert about(a.size, 3 * MB) and about(b.size, 4 * MB)
        assert about(a.alone, 0) and about(b.alone, MB)
        assert about(store.caches().total, 4 * MB)
        assert about(store.remove_caches(["b"])[1].bytes, MB)
        assert about(found(store)["a"].alone, 3 * MB)
        assert about(store.remove_caches(["a"])[1].bytes, 3 * MB)
        assert list(store.path.glob("kept/*/*")) == []


def test_what_is_removed_has_to_be_there(store: Store) -> None:
    build(store, "a", file=1)
    assert store.remove_caches(["a", "b"])[0] == {"a"}
    assert store.caches().caches == ()


def test_the_longest_unused_goes_first_and_no_more_than_has_to(store: Store) -> None:
    for number, app in enumerate("abc"):
        build(store, app, file=2 * MB)
        old(store, app, 1000 + number)
    old(store, "a", 5000)
    assert store.caches_beyond(10 * MB) == ()
    assert store.caches_beyond(5 * MB) == ("b",)
    assert store.caches_beyond(3 * MB) == ("b", "c")
    assert store.caches_beyond(0) == ("b", "c", "a")
    assert store.trim(3 * MB, stays="b") == ("c", "a")
    assert found(store).keys() == {"b"}


def test_what_was_trimmed_is_off_the_disk_when_the_store_is_closed(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        build(store, "a", file=2 * MB)
        build(store, "b", file=2 * MB)
        assert store.trim(3 * MB, stays="b") == ("a",)
    with Store.open(tmp_path / "store") as store:
        assert len([path for path in store.path.glob("kept/*/*") if path.is_dir()]) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"layers": 3}', b'{"layers": {"x": "y"}}'])
def test_a_damaged_record_is_nothing(store: Store, content: bytes) -> None:
    build(store, "a", file=1)
    (store.path / "caches" / "damaged.json").write_bytes(content)
    assert found(store)["a"].layers == 1
    assert store.caches_beyond(0)


def test_what_others_build_and_remove_meanwhile_is_no_error(tmp_path: Path) -> None:
    """They replace records and kept trees, and take them away."""
    over = threading.Event()

    def disturb(name: str) -> None:
        with Store.open(tmp_path) as store:
            while not over.is_set():
                build(store, name, file=1000)
                store.remove_caches([name])

    with Store.open(tmp_path) as store, ThreadPoolExecutor(2) as threads:
        others = [threads.submit(disturb, name) for name in ("one", "two")]
        try:
            for _ in range(300):
                store.caches()
                store.nearest_app("mine", "f")
                store.caches_beyond(1)
        finally:
            over.set()
        for other in others:
            other.result()
