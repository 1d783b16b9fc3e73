from __future__ import annotations

import gzip
import json
import os
import subprocess

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Descriptor, Manifest, MediaType
from packhorse.store.store import Store
from unit.store import samples


def put(store: Store, name: str, image: Image) -> Image:
    place = store.place(name)
    for layer in image.layers:
        place.write_layer(layer)
    place.write_image(image)
    return image


def content(layer: Layer) -> bytes:
    return b"".join(layer.tar())


def listed(store: Store) -> dict[str, str]:
    """The names in the index that other OCI tools read, and the manifests they stand for."""
    index = json.loads((store.path / "index.json").read_bytes())
    return {
        item["annotations"]["org.opencontainers.image.ref.name"]: item["digest"]
        for item in index["manifests"]
    }


def test_an_image_is_read_as_it_was_committed(store: Store) -> None:
    image = put(store, "app", samples.image(samples.plain(b"one"), samples.gzipped(b"two")))
    found = store.place("docker.io/library/app:latest").read()
    assert found.config == image.config
    assert found.id == image.id
    assert [content(layer) for layer in found.layers] == [content(layer) for layer in image.layers]
    assert [layer.blob is not None for layer in found.layers] == [False, True]


def test_nothing_has_the_name_before_commit(store: Store) -> None:
    store.place("app").write_layer(samples.plain(b"one"))
    with pytest.raises(NotFoundError, match="app"):
        store.place("app").read()
    assert store.images() == ()


def test_a_layer_that_is_here_is_not_read_again(store: Store) -> None:
    layers = samples.plain(b"one"), samples.gzipped(b"two")
    put(store, "app", samples.image(*layers))
    for layer in layers:
        answer = store.place("other").write_layer(samples.unreadable(layer))
        assert content(answer) == content(layer)


def test_a_layer_of_unknown_digest_is_read_once_and_gets_its_diff_id(store: Store) -> None:
    known = samples.plain(b"one")
    answer = store.place("app").write_layer(Layer(known.tar))
    assert (answer.diff_id, answer.size) == (known.diff_id, known.size)


def test_a_layer_with_other_bytes_than_its_diff_id_is_refused(store: Store) -> None:
    wrong = Layer(samples.plain(b"one").tar, Digest.of(b"something else"))
    with pytest.raises(FormatError):
        store.place("app").write_layer(wrong)
    assert list((store.path / "blobs/sha256").iterdir()) == []


def test_an_image_cannot_be_committed_without_its_layers(store: Store) -> None:
    with pytest.raises(FormatError, match="is not in the store"):
        store.place("app").write_image(samples.image(samples.plain(b"one")))
    assert store.images() == ()


def test_an_image_whose_blobs_are_all_here_is_listed_for_other_tools(store: Store) -> None:
    image = samples.image(samples.gzipped(b"one"))
    put(store, "whole", image)
    put(store, "tar-only", samples.image(samples.gzipped(b"one"), samples.plain(b"two")))
    assert set(listed(store)) == {"whole:latest"}
    manifest = Manifest.parse((store.path / "blobs/sha256" / listed(store)["whole:latest"][7:]).read_bytes())
    assert manifest.config.digest == image.id
    for item in (manifest.config, *manifest.layers):
        assert (store.path / "blobs/sha256" / item.digest.hex).stat().st_size == item.size


def test_a_manifest_that_came_with_an_image_is_kept_byte_for_byte(store: Store) -> None:
    layer = samples.gzipped(b"one")
    config = samples.config(layer)
    assert layer.descriptor
    document = {
        "schemaVersion": 2,
        "x-unknown": True,
        "config": Descriptor(MediaType.DOCKER_CONFIG, config.digest, len(config.raw)).fields(),
        "layers": [layer.descriptor.fields()],
    }
    manifest = Manifest.parse(json.dumps(document, indent=3).encode(), MediaType.DOCKER_MANIFEST)
    receipt = (place := store.place("app")).write_image(Image(config, (place.write_layer(layer),), manifest))
    assert receipt.manifest_digest == manifest.digest
    found = place.read()
    assert found.manifest == manifest
    assert found.layers[0].descriptor == layer.descriptor


def test_an_image_whose_manifest_names_an_absent_blob_has_no_manifest(store: Store) -> None:
    layer = samples.plain(b"one")
    config = samples.config(layer)
    absent = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(b"absent"), 6)
    manifest = Manifest.of(Descriptor(MediaType.OCI_CONFIG, config.digest, len(config.raw)), [absent])
    place = store.place("app")
    receipt = place.write_image(Image(config, (place.write_layer(layer),), manifest))
    assert receipt.manifest_digest is None
    assert place.read().manifest is None
    assert listed(store) == {}


def test_a_layer_that_is_here_compressed_in_another_way_is_the_images_own(store: Store) -> None:
    mine = samples.gzipped(b"one")
    put(store, "mine", samples.image(mine))
    blob = gzip.compress(content(mine), 9, mtime=0)
    theirs = Descriptor(MediaType.DOCKER_LAYER_GZIP, Digest.of(blob), len(blob))
    config = samples.config(mine, command="theirs")
    raw = Descriptor(MediaType.DOCKER_CONFIG, Digest.of(config.raw), len(config.raw))
    manifest = Manifest.of(raw, [theirs], {})
    put(
        store,
        "theirs",
        Image(config, (Layer(mine.tar, mine.diff_id, None, theirs, lambda: iter([blob])),), manifest),
    )
    [layer] = store.place("theirs").read().layers
    assert (content(layer), layer.descriptor) == (content(mine), mine.descriptor)
    assert len(listed(store)) == 2


def test_an_image_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    image = put(store, "app", samples.image(samples.plain(b"one")))
    assert store.find(image.id.hex[:12]).id == image.id
    assert store.find(str(image.id)).id == image.id
    assert store.place(image.id.hex[:7]).read().id == image.id


def test_the_beginning_of_several_ids_is_refused(store: Store) -> None:
    layer = samples.plain(b"one")
    ids: dict[str, str] = {}
    for number in range(300):
        image = put(store, f"app:{number}", samples.image(layer, command=str(number)))
        start = image.id.hex[:2]
        if start in ids:
            break
        ids[start] = image.id.hex
    with pytest.raises(InputError, match="several images"):
        store.find(start)


def test_a_name_moves_to_the_image_committed_last(store: Store) -> None:
    layer = samples.plain(b"one")
    put(store, "app", samples.image(layer, command="old"))
    new = put(store, "app", samples.image(layer, command="new"))
    assert [record.id for record in store.images()] == [new.id]


def test_removing_a_name_leaves_the_image_its_other_names(store: Store) -> None:
    image = samples.image(samples.plain(b"one"))
    put(store, "app:1", image)
    put(store, "app:2", image)
    first = store.remove("app:1")
    assert ([str(name) for name in first.untagged], first.deleted) == (["docker.io/library/app:1"], None)
    second = store.remove("app:2")
    assert second.deleted == image.id
    assert store.images() == ()


def test_an_image_of_several_names_is_removed_by_id_only_when_forced(store: Store) -> None:
    image = samples.image(samples.plain(b"one"))
    put(store, "app:1", image)
    put(store, "app:2", image)
    with pytest.raises(InputError, match="app:1, app:2"):
        store.remove(image.id.hex)
    assert len(store.images()) == 2
    assert store.remove(image.id.hex, force=True).deleted == image.id
    assert store.images() == ()


@pytest.mark.system
def test_a_damaged_list_of_images_is_an_error_and_not_an_empty_store(store: Store) -> None:
    put(store, "app", samples.image(samples.plain(b"one")))
    (store.path / "images.json").write_text('{"images": [{"name": 3}]}')
    for action in (store.images, store.gc, lambda: store.remove("app")):
        with pytest.raises(StoreError, match="damaged"):
            action()
    assert len(list((store.path / "blobs/sha256").iterdir())) == 2


def test_an_image_that_lost_a_layer_says_which(store: Store) -> None:
    layer = samples.plain(b"one")
    put(store, "app", samples.image(layer))
    assert layer.diff_id
    (store.path / "blobs/sha256" / layer.diff_id.hex).unlink()
    with pytest.raises(FormatError, match=layer.diff_id.hex):
        store.place("app").read()


def test_an_image_whose_config_is_damaged_is_not_whole_and_heals_by_being_stored_again(store: Store) -> None:
    image = samples.image(samples.plain(b"one"))
    put(store, "app", image)
    (store.path / "blobs/sha256" / image.id.hex).write_bytes(bytes(len(image.config.raw)))
    for _ in range(2):
        with pytest.raises(FormatError, match="incomplete"):
            store.place("app").read()
    put(store, "app", image)
    assert store.place("app").read().id == image.id


def test_a_tar_that_was_cut_short_is_as_if_it_were_not_here(store: Store) -> None:
    layer = samples.plain(bytes(5000))
    put(store, "app", samples.image(layer))
    assert layer.diff_id
    os.truncate(store.path / "blobs/sha256" / layer.diff_id.hex, 1000)
    with pytest.raises(FormatError, match="incomplete"):
        store.place("app").read()
    put(store, "app", samples.image(layer))
    assert content(store.place("app").read().layers[0]) == content(layer)


@pytest.mark.system
@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"{", b"[]", b'{"images": [{}]}', b"\xff", None])
def test_a_damaged_list_of_images_is_told_with_what_helps(store: Store, damage: bytes | None) -> None:
    put(store, "app", samples.image(samples.plain(b"one")))
    path = store.path / "images.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    before = len(list((store.path / "blobs/sha256").iterdir()))
    for use in (store.images, store.gc, lambda: store.remove("app"), store.place("app").read):
        with pytest.raises(StoreError, match="list of images is damaged") as caught:
            use()
    assert len(list((store.path / "blobs/sha256").iterdir())) == before
    subprocess.run(caught.value.fix.partition("again: ")[2], shell=True, check=True)
    assert store.images() == ()
    put(store, "app", samples.image(samples.plain(b"one")))


def test_the_index_for_other_tools_is_left_alone_where_it_would_be_the_same(store: Store) -> None:
    path = store.path / "index.json"
    seen = []
    for content in (b"one", b"one", b"two"):
        put(store, "app", samples.image(samples.gzipped(content)))
        seen.append(path.stat().st_ino)
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"{", None])
def test_the_index_for_other_tools_is_brought_up_to_date_by_gc(store: Store, damage: bytes | None) -> None:
    put(store, "app", samples.image(samples.gzipped(b"one")))
    path = store.path / "index.json"
    right = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    store.gc()
    assert path.read_bytes() == right


def test_what_a_layer_is_compressed_to_is_remembered_without_its_blob(store: Store) -> None:
    layer = samples.plain(b"one")
    stored = samples.gzipped(b"one").descriptor
    assert layer.diff_id and stored
    put(store, "app", samples.image(layer))
    assert store.compressed_form(layer.diff_id) is None
    store.remember_compressed(layer.diff_id, stored)
    assert store.compressed_form(layer.diff_id) == stored
    assert store.place("app").read().layers[0].blob is None


def test_the_size_of_an_image_is_that_of_its_tars(store: Store) -> None:
    layers = samples.plain(b"one"), samples.gzipped(b"two")
    put(store, "app", samples.image(*layers))
    found = store.place("app").read()
    lengths = [len(content(layer)) for layer in found.layers]
    assert store.size(store.images()[0]) == sum(lengths)
