"""The layers of a build over an upper directory as the kernel leaves it; tests/acceptance asks the kernel."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.waiting import wait_until
from packhorse.base.digest import Digest
from packhorse.errors import StoreError, TreeError
from packhorse.fs.overlay import OPAQUE
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import IdMap, MapMode, choose_map
from packhorse.oci.place import Layer
from packhorse.store.build_layers import OverlayLayerCache
from packhorse.store.layer_cache import LayerCounters
from packhorse.store.store import Store
from packhorse.tar.writer import TarEntry, digest, directory_entries, stream
from unit.store import samples

ONE, TWO = "/layers/bp/one", "/layers/bp/two"


@pytest.fixture
def idmap() -> IdMap:
    return choose_map(1000, 1000, mode=MapMode.SINGLE)


@contextmanager
def build(store: Store, idmap: IdMap, app: str = "app") -> Iterator[OverlayLayerCache]:
    with store.scratch() as scratch:
        yield store.open_layers(app, idmap, uid=1000, gid=1000, scratch=scratch)


@pytest.fixture
def overlay(store: Store, idmap: IdMap) -> Iterator[OverlayLayerCache]:
    with build(store, idmap) as opened:
        yield opened


@pytest.fixture
def view(tmp_path: Path) -> Iterator[RootedTree]:
    with RootedTree.open_local(tmp_path) as opened:
        yield opened


def upper(overlay: OverlayLayerCache) -> Path:
    found = overlay.mounts()[0].upper
    assert found
    return found


def write(overlay: OverlayLayerCache, path: str, text: str) -> Path:
    target = upper(overlay) / path.removeprefix("/layers/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def diff_id(tree: Path, path: str) -> Digest:
    """The digest of the layer made of a plain directory."""
    parents = [TarEntry.directory(name, uid=1000, gid=1000) for name in ("/layers", "/layers/bp")]
    with RootedTree.open_local(tree) as view:
        return digest(stream(directory_entries(view, path, uid=1000, gid=1000, parents=parents)))[0]


def keep(store: Store, idmap: IdMap, view: RootedTree, *paths: str) -> list[Layer]:
    """Builds once, with a file in each of the layers, and records them."""
    with build(store, idmap) as overlay:
        for path in paths:
            write(overlay, f"{path}/file", path)
            write(overlay, f"{path}/other", "other")
        layers = [overlay.capture(view, path)[0] for path in paths]
        found = {path: layer.diff_id for path, layer in zip(paths, layers, strict=True) if layer.diff_id}
        overlay.commit(b"metadata", found)
    return layers


def restore(overlay: OverlayLayerCache, path: str, layer: Layer) -> None:
    assert layer.diff_id and overlay.restore(path, layer.diff_id)


def lowers(overlay: OverlayLayerCache) -> set[str]:
    """The files that the lowers of the next mount have."""
    return {
        str(file.relative_to(lower))
        for lower in overlay.mounts()[0].lowers
        for file in lower.rglob("*")
        if file.is_file()
    }


def test_a_new_layer_is_what_a_plain_directory_would_be(
    overlay: OverlayLayerCache, view: RootedTree, tmp_path: Path
) -> None:
    for root in (upper(overlay), tmp_path / "plain" / "layers"):
        layer = root / "bp" / "one"
        (layer / "bin").mkdir(parents=True)
        (layer / "bin" / "tool").write_text("#!/bin/sh\n")
        (layer / "bin" / "tool").chmod(0o755)
        (layer / "link").symlink_to("/etc/shadow")
        (layer / "bin").chmod(0o555)
    layer, untouched = overlay.capture(view, ONE)
    assert not untouched
    assert layer.diff_id == diff_id(tmp_path / "plain", ONE)
    chunks = b"".join(layer.tar())
    assert (Digest.of(chunks), len(chunks)) == (layer.diff_id, layer.size)


def test_a_captured_layer_is_seen_again_by_later_steps(overlay: OverlayLayerCache, view: RootedTree) -> None:
    write(overlay, f"{ONE}/file", "content")
    overlay.capture(view, ONE)
    assert not (upper(overlay) / "bp/one").exists()
    assert lowers(overlay) == {"bp/one/file"}


def test_a_layer_captured_twice_is_the_same_new_layer(overlay: OverlayLayerCache, view: RootedTree) -> None:
    write(overlay, f"{ONE}/file", "content")
    first = overlay.capture(view, ONE)
    assert overlay.capture(view, ONE) == first
    assert overlay.counters.changed == 1


def test_an_untouched_layer_is_not_read(store: Store, idmap: IdMap, view: RootedTree) -> None:
    [kept] = keep(store, idmap, view, ONE)
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)
        [lower] = [lower for lower in overlay.mounts()[0].lowers if (lower / "bp").exists()]
        (lower / "bp/one/file").write_text("what a reader would notice")
        layer, untouched = overlay.capture(view, ONE)
        assert (layer.diff_id, layer.size, untouched) == (kept.diff_id, kept.size, True)
        assert overlay.counters == LayerCounters(untouched=1)


def test_what_is_written_beside_a_layer_does_not_touch_it(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    one, two = keep(store, idmap, view, ONE, TWO)
    with build(store, idmap) as overlay:
        restore(overlay, ONE, one)
        restore(overlay, TWO, two)
        write(overlay, "/layers/bp/one.toml", "")
        write(overlay, f"{TWO}/file", "changed")
        assert overlay.capture(view, ONE)[1]
        assert not overlay.capture(view, TWO)[1]


def test_a_partly_changed_layer_is_merged_with_what_it_was(
    store: Store, idmap: IdMap, view: RootedTree, tmp_path: Path
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    plain = tmp_path / "plain" / "layers/bp/one"
    plain.mkdir(parents=True)
    (plain / "file").write_text("changed")
    (plain / "new").write_text("new")
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)
        write(overlay, f"{ONE}/file", "changed")
        write(overlay, f"{ONE}/new", "new")
        os.mknod(upper(overlay) / "bp/one/other", stat.S_IFCHR)
        layer, untouched = overlay.capture(view, ONE)
        assert not untouched
        assert layer.diff_id == diff_id(tmp_path / "plain", ONE)
    assert b"".join(kept.tar()), "the former tree is still whole"


def test_a_replaced_layer_has_nothing_of_what_it_was(
    store: Store, idmap: IdMap, view: RootedTree, tmp_path: Path
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    plain = tmp_path / "plain" / "layers/bp/one"
    plain.mkdir(parents=True)
    (plain / "new").write_text("new")
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)
        write(overlay, f"{ONE}/new", "new")
        os.setxattr(upper(overlay) / "bp/one", OPAQUE, b"y")
        assert overlay.capture(view, ONE)[0].diff_id == diff_id(tmp_path / "plain", ONE)
        assert lowers(overlay) == {"bp/one/new"}


def test_a_layer_that_becomes_what_is_kept_already_is_kept_once(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    with build(store, idmap) as overlay:
        write(overlay, f"{ONE}/file", ONE)
        write(overlay, f"{ONE}/other", "other")
        assert overlay.capture(view, ONE)[0].diff_id == kept.diff_id
    assert len([path for path in store.path.glob("kept/*/*") if path.is_dir()]) == 1


def test_a_removed_layer_cannot_be_captured(store: Store, idmap: IdMap, view: RootedTree) -> None:
    [kept] = keep(store, idmap, view, ONE)
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)
        (upper(overlay) / "bp").mkdir()
        os.mknod(upper(overlay) / "bp/one", stat.S_IFCHR)
        with pytest.raises(TreeError, match="not a directory"):
            overlay.capture(view, ONE)


def test_layers_hidden_by_their_buildpacks_new_directory_stay_hidden(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    one, two = keep(store, idmap, view, ONE, TWO)
    with build(store, idmap) as overlay:
        restore(overlay, ONE, one)
        restore(overlay, TWO, two)
        write(overlay, f"{TWO}/new", "new")
        os.setxattr(upper(overlay) / "bp", OPAQUE, b"y")
        overlay.capture(view, TWO)
        assert lowers(overlay) == {"bp/two/new"}
        with pytest.raises(TreeError):
            overlay.capture(view, ONE)


def test_a_directory_that_the_kernel_marked_before_restoring_hides_nothing(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    with build(store, idmap) as overlay:
        write(overlay, "/layers/bp/one.toml", "")
        os.setxattr(upper(overlay) / "bp", OPAQUE, b"y")
        restore(overlay, ONE, kept)
        assert OPAQUE not in os.listxattr(upper(overlay) / "bp")
        assert overlay.capture(view, ONE)[1]


@pytest.mark.system
def test_a_buildpacks_directory_may_have_any_mode(store: Store, idmap: IdMap, view: RootedTree) -> None:
    one, two = keep(store, idmap, view, ONE, TWO)
    with build(store, idmap) as overlay:
        restore(overlay, ONE, one)
        write(overlay, f"{ONE}/file", "changed")
        write(overlay, f"{TWO}/file", "changed")
        (upper(overlay) / "bp").chmod(0)
        restore(overlay, TWO, two)
        (upper(overlay) / "bp").chmod(0o555)
        assert not overlay.capture(view, ONE)[1]
        assert overlay.capture(view, TWO)[1]


def test_a_link_in_place_of_a_directory_is_not_followed(
    overlay: OverlayLayerCache, view: RootedTree, tmp_path: Path
) -> None:
    (tmp_path / "secret" / "one").mkdir(parents=True)
    (upper(overlay) / "bp").symlink_to(tmp_path / "secret")
    (upper(overlay) / "other").mkdir()
    (upper(overlay) / "other" / "one").symlink_to(tmp_path / "secret")
    for path in (ONE, "/layers/other/one"):
        with pytest.raises(TreeError, match="not a directory"):
            overlay.capture(view, path)
    assert (tmp_path / "secret" / "one").exists()


@pytest.mark.parametrize(
    "path", ["/layers", "/layers/bp", "/layers/bp/..", "/layers//one", "/etc/bp/one", "/layers/a/b/c"]
)
def test_only_a_layers_directory_can_be_captured_or_restored(
    overlay: OverlayLayerCache, view: RootedTree, path: str
) -> None:
    with pytest.raises(TreeError):
        overlay.capture(view, path)
    with pytest.raises(TreeError):
        overlay.restore(path, Digest.of(b""))


def test_metadata_comes_back_byte_for_byte_and_per_app(store: Store, idmap: IdMap) -> None:
    with build(store, idmap) as overlay:
        assert overlay.read() == b""
        overlay.commit(b'{"key":"\xff\n"}', {})
    with build(store, idmap) as overlay:
        assert overlay.read() == b'{"key":"\xff\n"}'
    with build(store, idmap, "other") as overlay:
        assert overlay.read() == b""
    assert store.forget("app")
    assert not store.forget("app")
    with build(store, idmap) as overlay:
        assert overlay.read() == b""


def test_a_layer_is_not_restored_elsewhere_or_for_another_user(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    assert kept.diff_id
    with build(store, idmap) as overlay:
        assert not overlay.restore(TWO, kept.diff_id)
        assert not overlay.restore(ONE, Digest.of(b"unknown"))
    other = choose_map(1001, 1001, mode=MapMode.SINGLE)
    with store.scratch() as scratch:
        overlay = store.open_layers("app", other, uid=1001, gid=1001, scratch=scratch)
        assert not overlay.restore(ONE, kept.diff_id)


def test_many_layers_are_merged_into_fewer_lowers(store: Store, idmap: IdMap, view: RootedTree) -> None:
    paths = [f"/layers/bp{number % 7}/layer{number}" for number in range(50)]
    layers = keep(store, idmap, view, *paths)
    with build(store, idmap) as overlay:
        for path, layer in zip(paths, layers, strict=True):
            restore(overlay, path, layer)
        [mount] = overlay.mounts()
        assert len(mount.lowers) <= 32
        assert sum(len(bytes(lower)) + 1 for lower in mount.lowers) < 4096 - 512
        assert {f"{path}/file".removeprefix("/layers/") for path in paths} <= lowers(overlay)
        assert overlay.mounts() == (mount,)


def test_a_kept_layer_from_before_a_crash_is_believed_only_after_it_was_hashed(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    one, two = keep(store, idmap, view, ONE, TWO)
    samples.restart(store.path)
    for path in store.path.glob("kept/*/*/layers/bp/two/file"):
        path.write_text("")  # what a file may be after a crash
    with build(store, idmap) as overlay:
        assert one.diff_id and two.diff_id
        assert overlay.restore(ONE, one.diff_id)
        assert not overlay.restore(TWO, two.diff_id)
    assert len(list(store.path.glob("kept/*/*.json"))) == 1


def test_a_settled_layer_is_believed_after_a_restart(store: Store, idmap: IdMap, view: RootedTree) -> None:
    [kept] = keep(store, idmap, view, ONE)
    store.sync()
    samples.restart(store.path)
    for path in store.path.glob("kept/*/*/layers/bp/one/file"):
        path.write_text("what a reader would notice")
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)


def test_a_layer_that_came_to_the_disk_only_after_the_last_flush_is_not_believed(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    keep(store, idmap, view, TWO)
    store.sync()
    [kept] = keep(store, idmap, view, ONE)
    samples.restart(store.path)
    for path in store.path.glob("kept/*/*/layers/bp/one/file"):
        path.write_text("")
    with build(store, idmap) as overlay:
        assert kept.diff_id and not overlay.restore(ONE, kept.diff_id)


@pytest.mark.system
def test_trees_are_put_on_the_disk_by_a_later_command_and_once(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    marker = store.path / "unsettled"
    store.remove_leftovers()
    assert marker.exists(), "the kernel will have written most of it by itself in a while"
    os.utime(marker, (0, 0))
    store.remove_leftovers()
    wait_until((store.path / "settled.json").exists, "settled.json")
    assert not marker.exists()
    samples.restart(store.path)
    (store.path / "settled.json").rename(store.path / "settled")
    store.remove_leftovers()
    (store.path / "settled").rename(store.path / "settled.json")
    with build(store, idmap) as overlay:
        restore(overlay, ONE, kept)


@pytest.mark.system
def test_a_copied_layer_with_other_owners_is_not_believed(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    samples.restart(store.path)
    for path in store.path.glob("kept/*/*/layers/bp/one/file"):
        os.chown(path, 4711, 4711)
    with build(store, idmap) as overlay:
        assert kept.diff_id and not overlay.restore(ONE, kept.diff_id)


def test_a_layer_that_cannot_be_kept_leaves_nothing(store: Store, idmap: IdMap, view: RootedTree) -> None:
    with build(store, idmap) as overlay:
        deep = upper(overlay) / "bp" / "one"
        deep.mkdir(parents=True)
        descriptor = os.open(deep, os.O_RDONLY)
        for _ in range(300):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(descriptor)
        with pytest.raises(TreeError, match="nested"):
            overlay.capture(view, ONE)
    assert [path for path in store.path.glob("kept/*/*") if not path.name.endswith(".json")] == []


def test_a_kept_layer_that_was_replaced_is_not_believed(store: Store, idmap: IdMap, view: RootedTree) -> None:
    [kept] = keep(store, idmap, view, ONE)
    store.sync()
    [tree] = [path for path in store.path.glob("kept/*/*") if path.is_dir()]
    tree.rename(tree.with_name("elsewhere"))
    (tree / "layers/bp/one").mkdir(parents=True)
    with build(store, idmap) as overlay:
        assert kept.diff_id and not overlay.restore(ONE, kept.diff_id)


def test_a_damaged_kept_layer_is_noticed_when_its_bytes_are_made(
    store: Store, idmap: IdMap, view: RootedTree
) -> None:
    [kept] = keep(store, idmap, view, ONE)
    for path in store.path.glob("kept/*/*/layers/bp/one/file"):
        path.write_text("damaged......."[: path.stat().st_size])
    with pytest.raises(StoreError, match=r"(?s)damaged.*/kept/"):
        list(kept.tar())
    with build(store, idmap) as overlay:
        assert kept.diff_id and not overlay.restore(ONE, kept.diff_id)


def test_an_image_takes_a_kept_layer_without_writing_it(store: Store, idmap: IdMap, view: RootedTree) -> None:
    [kept] = keep(store, idmap, view, ONE)
    answer = store.place("app").write_layer(Layer(lambda: iter(()), kept.diff_id))
    assert (answer.diff_id, answer.size, answer.blob) == (kept.diff_id, kept.size, None)
    assert list((store.path / "blobs/sha256").iterdir()) == []
