"""The suite of the port LayerCache: what restore, build and export may rely on, whatever keeps the layers.

To add an adapter, write a function like `stored` and put it into CACHES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest

from fakes.cache import FakeCache
from fakes.place import place
from packhorse.base.digest import Digest
from packhorse.base.tree import NodeKind, TreeEdit, read
from packhorse.errors import TreeError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.ports import LayerCache
from packhorse.store.store import Store
from packhorse.tar.writer import directory_entries

ONE, TWO = "/layers/a_b/one", "/layers/a_b/two"


@dataclass(frozen=True)
class Build:
    """One build: its cache, and `room`, which opens the tree that a buildpack would then see."""

    cache: LayerCache
    room: Callable[[], AbstractContextManager[TreeEdit]]


Builds = Callable[[], AbstractContextManager[Build]]


@contextmanager
def stored(base: Path, *, copied: bool = False) -> Iterator[Builds]:
    """Kept layers in a store, under real overlays or as copies in the real sandbox."""
    with place(base) as here, Store.open(base / "store") as store:

        @contextmanager
        def build() -> Iterator[Build]:
            with store.scratch() as scratch:
                idmap, how = here.namespace.idmap, store.open_layer_copies if copied else store.open_layers
                cache = how("app", idmap, uid=1000, gid=1000, scratch=scratch)

                @contextmanager
                def room() -> Iterator[TreeEdit]:
                    step = replace(here.spec("", *cache.mounts()), argv=())
                    with here.sandbox.open(step) as opened:
                        yield opened.tree

                yield Build(cache, room)

        yield build


def copied(base: Path) -> AbstractContextManager[Builds]:
    """Kept layers in a store, which every build copies."""
    return stored(base, copied=True)


@contextmanager
def faked(base: Path) -> Iterator[Builds]:
    (base / "shelf").mkdir()
    numbers = count(1)
    cache = FakeCache(base, base / "shelf")

    @contextmanager
    def build() -> Iterator[Build]:
        nonlocal cache
        root = base / f"root-{next(numbers)}"
        (root / "layers").mkdir(parents=True)
        cache = replace(cache, root=root, restored={})
        yield Build(cache, lambda: RootedTree.open_local(root))

    yield build


CACHES: dict[str, Callable[[Path], AbstractContextManager[Builds]]] = {
    "overlay": stored,
    "copies": copied,
    "fake": faked,
}


@pytest.fixture(params=CACHES)
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Builds]:
    with CACHES[request.param](tmp_path) as builds:
        yield builds


def capture(build: Build, path: str) -> tuple[Digest, bool]:
    with build.room() as tree:
        layer, untouched = build.cache.capture(tree, path)
    assert layer.diff_id
    return layer.diff_id, untouched


def first(build: Builds, *paths: str) -> list[Digest]:
    """A build that makes these layers and records them."""
    with build() as now:
        with now.room() as tree:
            for path in paths:
                tree.write(f"{path}/bin/tool", path.encode(), mode=0o755)
                tree.write(f"{path}/data", b"data")
        captured = [capture(now, path)[0] for path in paths]
        now.cache.commit(b"first", dict(zip(paths, captured, strict=True)))
    return captured


def test_before_the_first_commit_there_is_nothing(build: Builds) -> None:
    with build() as now:
        assert now.cache.read(()) == b""
        assert not now.cache.restore(ONE, Digest.of(b"anything"))


def test_the_metadata_of_the_last_commit_comes_back(build: Builds) -> None:
    for metadata in (b'{"a":1}', b'{"b":"\xc3\xa9"}'):
        with build() as now:
            now.cache.commit(metadata, {})
    with build() as now:
        assert now.cache.read(()) == b'{"b":"\xc3\xa9"}'


def test_a_restored_layer_is_there_as_it_was(build: Builds) -> None:
    one, two = first(build, ONE, TWO)
    with build() as now:
        assert now.cache.restore(ONE, one)
        assert now.cache.restore(TWO, two)
        with now.room() as tree:
            assert read(tree, f"{ONE}/bin/tool") == ONE.encode()
            assert read(tree, f"{TWO}/data") == b"data"
            node = tree.stat(f"{TWO}/bin/tool")
            assert node and (node.kind, node.mode) == (NodeKind.FILE, 0o755)


def test_a_layer_that_is_not_restored_is_not_there(build: Builds) -> None:
    one, _ = first(build, ONE, TWO)
    with build() as now:
        assert now.cache.restore(ONE, one)
        with now.room() as tree:
            assert tree.stat(TWO) is None


def test_a_restored_layer_that_nobody_touched_is_untouched(build: Builds) -> None:
    one, two = first(build, ONE, TWO)
    with build() as now:
        assert now.cache.restore(ONE, one)
        assert now.cache.restore(TWO, two)
        with now.room() as tree:
            tree.write(f"{ONE}.toml", b"[types]\nlaunch = true\n")
            tree.write(f"{TWO}/data", b"changed")
        assert capture(now, ONE) == (one, True)
        changed, untouched = capture(now, TWO)
        assert (changed != two, untouched) == (True, False)


def test_a_new_layer_is_never_the_restored_one(build: Builds) -> None:
    with build() as now:
        with now.room() as tree:
            tree.write(f"{ONE}/data", b"data")
        assert not capture(now, ONE)[1]


@pytest.mark.parametrize("change", ["edit", "remove", "replace"])
def test_a_changed_layer_is_captured_as_it_is_and_restored_so(build: Builds, change: str) -> None:
    [before] = first(build, ONE)
    with build() as now:
        assert now.cache.restore(ONE, before)
        with now.room() as tree:
            if change == "edit":
                tree.write(f"{ONE}/bin/new", b"new")
            elif change == "remove":
                tree.remove(f"{ONE}/bin")
            else:
                tree.remove(ONE)
                tree.write(f"{ONE}/bin/new", b"new")
        after, untouched = capture(now, ONE)
        assert (after != before, untouched) == (True, False)
        now.cache.commit(b"second", {ONE: after})
    expected = {
        "edit": ["bin", "bin/new", "bin/tool", "data"],
        "remove": ["data"],
        "replace": ["bin", "bin/new"],
    }
    with build() as now:
        assert now.cache.restore(ONE, after)
        with now.room() as tree:
            names = [entry.name for entry in directory_entries(tree, ONE, uid=1000, gid=1000)]
        found = [name.removeprefix(f"{ONE}/") for name in names if name != ONE]
        assert found == expected[change]
        assert capture(now, ONE) == (after, True)


def test_a_change_does_not_reach_what_was_kept_before(build: Builds) -> None:
    [before] = first(build, ONE)
    with build() as now:
        assert now.cache.restore(ONE, before)
        with now.room() as tree:
            tree.write(f"{ONE}/data", b"changed")
        capture(now, ONE)
    with build() as now:
        assert now.cache.restore(ONE, before)
        with now.room() as tree:
            assert read(tree, f"{ONE}/data") == b"data"
        assert capture(now, ONE) == (before, True)


def test_equal_layers_of_different_builds_have_one_diff_id(build: Builds) -> None:
    assert first(build, ONE) == first(build, ONE)


def test_a_diff_id_covers_the_path_of_the_layer(build: Builds) -> None:
    [one] = first(build, ONE)
    with build() as now:
        assert not now.cache.restore(TWO, one)


def test_a_captured_layers_tar_has_its_diff_id_and_size(build: Builds) -> None:
    [before] = first(build, ONE)
    with build() as now:
        assert now.cache.restore(ONE, before)
        with now.room() as tree:
            tree.write(f"{TWO}/data", b"data")
            layers = [now.cache.capture(tree, path)[0] for path in (ONE, TWO)]
        for layer in layers:
            tar = b"".join(layer.tar())
            assert (Digest.of(tar), len(tar)) == (layer.diff_id, layer.size)


def test_what_is_no_directory_cannot_be_captured(build: Builds) -> None:
    with build() as now, now.room() as tree:
        tree.write(TWO, b"a file")
        for path in (ONE, TWO):
            with pytest.raises(TreeError):
                now.cache.capture(tree, path)
