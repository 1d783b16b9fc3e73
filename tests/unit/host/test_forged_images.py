"""An image whose config names a layer that its blob is not harms no other image, whatever way it comes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.app_image import BASE, App
from fakes.small_image import config_of, forged_image, fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest
from packhorse.fleet.run_images import RunImages
from packhorse.host.locate import PullPolicy, fetch_image
from packhorse.host.wiring import Wiring
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, Place, copy, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import MediaType
from packhorse.testing import FakeRegistry

GOOD, EVIL, OTHER = (tar_of({"bin/sh": name.encode() * 5000}) for name in ("good", "evil", "other"))
FORGED = forged_image(GOOD, EVIL, OTHER)
HONEST = stored_image(GOOD)


def place(wiring: Wiring, text: str) -> Place:
    return wiring.place(Location.parse(text))


def blob_of(tar: bytes) -> Digest:
    [layer] = stored_image(tar).layers
    assert layer.descriptor is not None
    return layer.descriptor.digest


def contents(store: Path) -> dict[str, bytes]:
    """The images of a store, and what it has of the layers GOOD and EVIL."""
    names = ["images.json", "index.json"]
    names += [f"blobs/sha256/{digest.hex}" for digest in (Digest.of(GOOD), blob_of(GOOD), blob_of(EVIL))]
    names += [f"layers/{Digest.of(GOOD).hex}.json"]
    return {name: (store / name).read_bytes() for name in names if (store / name).exists()}


def make_unproven(store: Path) -> None:
    """Makes what a store knows of layers what earlier versions have recorded: what images had claimed."""
    for path in (store / "layers").glob("*.json"):
        fields = json.loads(path.read_text())
        del fields["computed"]
        path.write_text(json.dumps(fields))


def poison(wiring: Wiring) -> None:
    """Leaves in the store what an earlier version left when it took the forged image."""
    push_image(stored_image(EVIL), wiring.store.place("evil"))
    descriptor = stored_image(EVIL).layers[0].descriptor
    assert descriptor is not None
    path = wiring.store.path / "layers" / f"{Digest.of(GOOD).hex}.json"
    path.write_text(json.dumps({"blob": descriptor.fields()}))


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive", "docker"])
def test_it_is_refused_with_image_layer_and_digests_and_leaves_the_store_as_it_was(
    wiring: Wiring, registry: FakeRegistry, tmp_path: Path, kind: str
) -> None:
    source = f"{kind}:{tmp_path}/forged" if kind != "docker" else f"docker://{registry.host}/forged"
    if kind == "docker-archive":
        push_image(stored_image(EVIL, OTHER), place(wiring, source))
        claim_in_archive(tmp_path / "forged")
    else:
        push_image(FORGED, place(wiring, source))
    before = contents(wiring.store.path)
    with pytest.raises(FormatError) as caught:
        copy(place(wiring, source), wiring.store.place("forged"))
    told = str(caught.value)
    assert source.removeprefix("docker://").removeprefix(f"{kind}:") in told
    assert str(Digest.of(GOOD)) in told and str(Digest.of(EVIL)) in told
    assert contents(wiring.store.path) == before
    push_image(HONEST, wiring.store.place("good"))
    push_image(FORGED, wiring.store.place("forged"))
    assert tars(wiring.store.place("forged").read()) == [GOOD, OTHER], "the store has the layer it names"


def claim_in_archive(path: Path) -> None:
    """Has the config in a docker archive name GOOD for EVIL: digests of the same length."""
    data = path.read_bytes()
    path.write_bytes(data.replace(f'"sha256:{Digest.of(EVIL).hex}'.encode(), f'"{Digest.of(GOOD)}'.encode()))


def tars(image: Image) -> list[bytes]:
    return [b"".join(layer.tar()) for layer in image.layers]


def test_a_blob_that_cannot_be_unpacked_is_refused_by_what_it_is(wiring: Wiring) -> None:
    data = b"\x1f\x8bno gzip"
    broken = replace(HONEST.layers[0], blob=lambda: iter([data]))
    assert broken.descriptor is not None
    told = replace(broken.descriptor, digest=Digest.of(data), size=len(data))
    with pytest.raises(
        FormatError,
        match=rf"(?s){Digest.of(GOOD)}.*{told.digest}, cannot be unpacked: a gzip layer is broken",
    ):
        wiring.store.place("app").write_layer(replace(broken, descriptor=told))
    with pytest.raises(FormatError, match="not what they should be"):  # it has changed on its way
        wiring.store.place("app").write_layer(replace(broken, descriptor=replace(told, digest=blob_of(GOOD))))
    assert not list((wiring.store.path / "blobs/sha256").iterdir())


def test_a_blob_of_another_image_in_the_store_is_not_taken_for_the_layer(wiring: Wiring) -> None:
    push_image(stored_image(EVIL), wiring.store.place("evil"))
    push_image(HONEST, wiring.store.place("good"))
    push_image(FORGED, wiring.store.place("forged"))
    found = wiring.store.place("forged").read()
    assert tars(found) == [GOOD, OTHER]
    assert next(layer.descriptor.digest for layer in found.layers if layer.descriptor) == blob_of(GOOD)


def test_a_layer_is_recorded_with_the_media_type_that_its_bytes_have(wiring: Wiring) -> None:
    [layer] = HONEST.layers
    assert layer.descriptor is not None
    called = replace(layer, descriptor=replace(layer.descriptor, media_type=MediaType.OCI_LAYER_ZSTD))
    push_image(Image(HONEST.config, (called,)), wiring.store.place("odd"))
    found = wiring.store.layer(Digest.of(GOOD))
    assert found is not None and found.descriptor is not None
    assert found.descriptor.media_type == MediaType.OCI_LAYER_GZIP


def test_a_pull_of_it_leaves_the_image_of_before(wiring: Wiring, registry: FakeRegistry) -> None:
    name = f"{registry.host}/acme/run:1"
    push_image(stored_image(OTHER), wiring.store.place(name))
    push_image(FORGED, place(wiring, f"docker://{name}"))
    with pytest.raises(FormatError, match=rf"{name} has a layer that is not the one its config names"):
        fetch_image(wiring, name, target=Target.host(), say=lambda _: None)
    assert tars(wiring.store.place(name).read()) == [OTHER]


def test_what_an_earlier_version_believed_is_unpacked_once_before_it_is_used(wiring: Wiring) -> None:
    push_image(HONEST, wiring.store.place("good"))
    make_unproven(wiring.store.path)
    assert wiring.store.compressed_form(Digest.of(GOOD)) is None, "nothing is pushed by it unseen"
    found = wiring.store.place("good").read()
    assert found.manifest == HONEST.manifest and tars(found) == [GOOD]
    fields = json.loads((wiring.store.path / "layers" / f"{Digest.of(GOOD).hex}.json").read_text())
    assert fields["computed"] == [str(blob_of(GOOD))]
    assert wiring.store.compressed_form(Digest.of(GOOD)) is not None


def test_a_poisoned_store_heals_when_the_good_image_comes_again(wiring: Wiring, tmp_path: Path) -> None:
    poison(wiring)
    assert wiring.store.layer(Digest.of(GOOD)) is None
    poison(wiring)
    push_image(HONEST, wiring.store.place("good"))
    copy(wiring.store.place("good"), Layout(tmp_path / "out", "1"))
    [layer] = Layout(tmp_path / "out", "1").read().layers
    assert layer.descriptor is not None and layer.descriptor.digest == blob_of(GOOD)
    assert b"".join(layer.tar()) == GOOD


def test_an_image_that_a_poisoned_store_has_is_told_of_and_comes_whole_again(wiring: Wiring) -> None:
    push_image(HONEST, wiring.store.place("good"))
    poison(wiring)
    record = json.loads((wiring.store.path / "images.json").read_text())
    good = next(item for item in record["images"] if item["name"].endswith("good:latest"))
    manifest = FORGED.manifest
    assert manifest is not None
    evil = json.loads(HONEST.manifest.raw if HONEST.manifest else b"")
    evil["layers"] = [json.loads(manifest.raw)["layers"][0]]
    raw = json.dumps(evil).encode()
    (wiring.store.path / "blobs/sha256" / Digest.of(raw).hex).write_bytes(raw)
    for key in ("manifest", "listed"):
        good[key] = {"mediaType": MediaType.OCI_MANIFEST, "digest": str(Digest.of(raw)), "size": len(raw)}
    (wiring.store.path / "images.json").write_text(json.dumps(record))
    with pytest.raises(FormatError, match=rf"(?s)good.*incomplete.*{blob_of(EVIL)}.*{Digest.of(GOOD)}"):
        wiring.store.place("good").read()
    push_image(HONEST, wiring.store.place("good"))
    assert tars(wiring.store.place("good").read()) == [GOOD]


def test_an_image_on_a_base_that_a_poisoned_store_has_does_not_get_the_blob(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    poison(wiring)
    app = Image(config_of(GOOD, OTHER), (HONEST.layers[0], *fresh_image(OTHER).layers))
    push_image(app, wiring.store.place("app"))
    copy(wiring.store.place("app"), place(wiring, f"docker://{registry.host}/app"))
    found = place(Wiring(wiring.store), f"docker://{registry.host}/app").read()
    assert tars(found) == [GOOD, OTHER]


def test_a_known_compressed_form_is_published_only_if_it_is_that_layer(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    push_image(stored_image(EVIL), place(wiring, f"docker://{registry.host}/app"))
    push_image(fresh_image(GOOD), wiring.store.place("app"))
    poison(wiring)
    copy(wiring.store.place("app"), place(wiring, f"docker://{registry.host}/app"))
    assert tars(place(Wiring(wiring.store), f"docker://{registry.host}/app").read()) == [GOOD]


def test_a_publication_in_its_place_does_not_take_over_its_blob(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    name = f"docker://{registry.host}/app"
    push_image(FORGED, place(wiring, name))
    push_image(fresh_image(GOOD, OTHER), wiring.store.place("app"))
    for _ in range(2):
        copy(wiring.store.place("app"), place(Wiring(wiring.store), name))
        found = place(Wiring(wiring.store), name).read()
        assert tars(found) == [GOOD, OTHER]
        kept = found.layers[1].descriptor
        assert kept is not None and kept.digest == blob_of(OTHER), (
            "the one that is what it says is taken over"
        )


def test_a_layout_with_it_gives_no_other_image_its_blob(wiring: Wiring, tmp_path: Path) -> None:
    push_image(FORGED, Layout(tmp_path / "out", "forged"))
    push_image(fresh_image(GOOD), wiring.store.place("app"))
    copy(wiring.store.place("app"), Layout(tmp_path / "out", "app"))
    found = Layout(tmp_path / "out", "app").read()
    assert tars(found) == [GOOD]
    assert [layer.descriptor.digest for layer in found.layers if layer.descriptor] != [blob_of(EVIL)]


@pytest.mark.parametrize("kind", ["store", "registry"])
def test_an_image_is_not_rebased_in_the_store_onto_it(
    wiring: Wiring, registry: FakeRegistry, kind: str
) -> None:
    run = f"{registry.host}/acme/run"
    push_image(forged_image(GOOD, EVIL), place(wiring, f"docker://{run}"))
    lifecycle = {"runImage": {"topLayer": str(Digest.of(BASE[-1])), "reference": "abc", "image": run}}
    app = App(lifecycle=lifecycle).image()
    if kind == "registry":
        push_image(app, place(wiring, f"docker://{registry.host}/team/app"))
    source = Location.parse("app" if kind == "store" else f"docker://{registry.host}/team/app")
    push_image(app, wiring.store.place("app"))
    request = RebaseRequest(Location.parse("app"), source=source)
    with pytest.raises(FormatError, match="not the one its config names"):
        rebase(request, wiring, RunImages(wiring, say=lambda _: None, policy=PullPolicy.ALWAYS))
    assert wiring.store.place("app").read().id == app.id
    assert wiring.store.layer(Digest.of(GOOD)) is None
