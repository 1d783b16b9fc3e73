"""Whatever part of a store is damaged, it is made anew, or an error says so; none of it is believed."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, StoreError
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import MapMode, choose_map
from packhorse.oci.place import Layer
from packhorse.store.build_layers import Upper
from packhorse.store.leases import make_error, write
from packhorse.store.store import Store
from unit.store import samples

ONE = "/layers/bp/one"
IDMAP = choose_map(1000, 1000, mode=MapMode.SINGLE)


def keep(store: Store, text: str = "one") -> Layer:
    """Builds once, with one layer."""
    with store.scratch() as scratch, RootedTree.open_local(scratch) as view:
        overlay = store.open_layers("app", IDMAP, uid=1000, gid=1000, scratch=scratch)
        upper = overlay.mounts()[0].upper
        assert upper
        (upper / "bp/one").mkdir(parents=True)
        (upper / "bp/one/file").write_text(text)
        layer, _ = overlay.capture(view, ONE)
        assert layer.diff_id
        overlay.commit(b"metadata", {ONE: layer.diff_id})
    return layer


def restored(store: Store, layer: Layer) -> bool:
    with store.scratch() as scratch:
        assert layer.diff_id
        return store.open_layers("app", IDMAP, uid=1000, gid=1000, scratch=scratch).restore(
            ONE, layer.diff_id
        )


def change(path: Path, /, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def replace_by_a_file(store: Store) -> None:
    directory = only(store, "kept/*/*/layers/bp/one")
    directory.rename(directory.with_name("two"))
    directory.touch()


def only(store: Store, pattern: str) -> Path:
    [path] = store.path.glob(pattern)
    return path


@pytest.mark.parametrize(
    ("number", "check", "fix"),
    [
        (errno.ENOSPC, "disk", "packhorse gc"),
        (errno.EDQUOT, "disk", "free some space"),
        (errno.EROFS, "store", "make it writable"),
        (errno.EOPNOTSUPP, "store", "on a local file system"),
        (errno.EMFILE, "limits", "ulimit -n"),
        (errno.EIO, "store", "dmesg"),
        (errno.ENOTDIR, "store", ""),
    ],
)
def test_what_a_disk_refuses_is_told_with_what_helps(number: int, check: str, fix: str) -> None:
    error = make_error(OSError(number, os.strerror(number)), Path("/a/store"))
    assert "/a/store" in error.what and error.why == os.strerror(number)
    assert (error.check, fix in error.fix, bool(fix)) == (check, True, bool(error.fix))


@pytest.mark.parametrize("fields", [{"inode": "7"}, {"boot": 7}, {"made": None}, {"changed": []}])
def test_a_tree_whose_stamp_is_damaged_is_hashed_before_it_is_believed(
    store: Store, fields: dict[str, object]
) -> None:
    layer = keep(store)
    change(only(store, "kept/*/*.json"), **fields)
    assert restored(store, layer)
    change(only(store, "kept/*/*.json"), **fields)
    only(store, "kept/*/*/layers/bp/one/file").write_text("two")
    assert not restored(store, layer)


@pytest.mark.parametrize("fields", [{"path": 5}, {"diff_id": "x"}, {"uid": -1}, {"size": "large"}])
def test_a_tree_whose_record_is_damaged_is_kept_anew(store: Store, fields: dict[str, object]) -> None:
    layer = keep(store)
    change(only(store, "kept/*/*.json"), **fields)
    assert not restored(store, layer)
    assert keep(store).diff_id == layer.diff_id
    assert restored(store, layer)


def test_a_tree_that_is_no_layer_any_more_is_not_believed_after_a_restart(store: Store) -> None:
    layer = keep(store)
    samples.restart(store.path)
    replace_by_a_file(store)
    assert not restored(store, layer)


def test_a_tree_that_is_no_layer_any_more_ends_whoever_makes_its_bytes(store: Store) -> None:
    layer = keep(store)
    replace_by_a_file(store)
    with pytest.raises(StoreError, match="damaged"):
        list(layer.tar())
    assert not restored(store, layer)


def test_what_the_store_knew_of_a_layer_is_learned_again(store: Store) -> None:
    image = samples.image(samples.gzipped(b"one"))
    for damage in ("{", '{"size": "x"}', '{"blob": {"digest": 5}}'):
        place = store.place("app")
        for layer in image.layers:
            place.write_layer(layer)
        place.write_image(image)
        only(store, "layers/*.json").write_text(damage)
    place = store.place("app")
    for layer in image.layers:
        place.write_layer(layer)
    place.write_image(image)
    [found] = store.place("app").read().layers
    assert b"".join(found.tar()) == b"".join(image.layers[0].tar())


def test_damage_does_not_keep_garbage_from_being_collected(store: Store) -> None:
    layer = keep(store)
    change(only(store, "caches/*"), layers={ONE: "no digest", "/layers/bp/two": str(layer.diff_id)})
    image = samples.image(samples.gzipped(b"one"))
    place = store.place("app")
    for each in image.layers:
        place.write_layer(each)
    place.write_image(image)
    index = json.loads((store.path / "index.json").read_text())
    for entry in index["manifests"]:
        digest = entry["digest"].removeprefix("sha256:")
        (store.path / "blobs/sha256" / digest).write_text("no manifest")
    store.close()
    with Store.open(store.path) as again:
        again.gc()
        assert restored(again, layer), "the one that the record still names"
        assert [str(item.name) for item in again.images()] == ["docker.io/library/app:latest"]


def test_a_record_that_cannot_be_replaced_leaves_nothing_half_written(store: Store, tmp_path: Path) -> None:
    (tmp_path / "record").mkdir()
    with store.scratch(), pytest.raises(StoreError, match="record"):
        write(store._lease, tmp_path / "record", {"a": 1})
    assert not [path for path in store.path.glob("scratch/**/*") if path.is_file()]


def test_a_blob_of_another_size_than_was_announced_is_refused(store: Store) -> None:
    layer = samples.gzipped(b"one")
    assert layer.descriptor
    wrong = replace(layer, descriptor=replace(layer.descriptor, size=layer.descriptor.size + 1))
    with pytest.raises(FormatError, match="cannot be stored"):
        store.place("app").write_layer(wrong)


@pytest.mark.parametrize("what", ["file", "link"])
def test_what_replaced_a_buildpacks_directory_is_forgotten_with_its_layers(tmp_path: Path, what: str) -> None:
    (tmp_path / "upper").mkdir()
    (tmp_path / "outside" / "one").mkdir(parents=True)
    if what == "file":
        (tmp_path / "upper/bp").write_text("")
    else:
        (tmp_path / "upper/bp").symlink_to(tmp_path / "outside")
    Upper(tmp_path / "upper").clear("bp", "one")
    assert list((tmp_path / "upper").iterdir()) == []
    assert (tmp_path / "outside" / "one").is_dir()


def test_a_scratch_directory_that_somebody_wants_to_see_stays_until_garbage_is_collected(
    store: Store,
) -> None:
    with store.scratch() as scratch:
        (scratch / "file").touch()
        store.keep_scratch(scratch)
    assert (scratch / "file").exists()
    store.close()
    with Store.open(store.path) as again:
        again.gc()
    assert not scratch.exists()


def test_a_blob_that_is_another_layer_is_told_with_its_digest_and_the_store(store: Store) -> None:
    layer, other = samples.gzipped(b"one"), samples.plain(b"two")
    place = store.place("app")
    place.write_layer(layer)
    place.write_image(samples.image(layer))
    assert other.diff_id and layer.descriptor
    only(store, "layers/*.json").rename(store.path / "layers" / f"{other.diff_id.hex}.json")
    found = store.layer(other.diff_id)
    assert found
    with pytest.raises(
        FormatError, match=rf"(?s)not what they should be.*{layer.descriptor.digest}.*{store.path}"
    ):
        list(found.tar())


def test_a_look_at_the_whole_store_finds_damaged_kept_layers_and_whose_they_are(store: Store) -> None:
    layer = keep(store)
    said: list[str] = []
    assert store.find_damage(said.append).damaged == ()
    assert "1 kept layers" in said[0]
    changed = only(store, "kept/*/*/layers/bp/one/file")
    status = changed.stat()
    changed.write_text("two")
    os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert restored(store, layer), "nobody has looked"
    found = store.find_damage(said.append)
    assert [path.rpartition("/")[2] for path in found.damaged] == [str(layer.diff_id)[7:39]]
    assert found.apps == ("app",) and found.images == ()
    assert not restored(store, layer)
    assert keep(store).diff_id == layer.diff_id and restored(store, layer)
    only(store, "caches/*").write_text("{")
    assert store.find_damage(said.append).damaged == (str(Path("caches") / f"{cache_name()}.json"),)


def cache_name() -> str:
    return Digest.of(b"app").hex[:32]


def test_a_blob_that_is_written_again_replaces_a_damaged_one(store: Store) -> None:
    for size in (100, 3 << 20):
        data = os.urandom(size)
        path = store.path / "blobs/sha256" / Digest.of(data).hex
        layer = Layer(lambda data=data: iter([data]))
        store.place("app").write_layer(layer)
        path.write_bytes(bytes(size))
        store.place("app").write_layer(layer)
        assert path.read_bytes() == data
