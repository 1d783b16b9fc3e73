"""Layouts without the layers of the run image, as `pack build --sparse` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.app_image import BASE, App
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError
from packhorse.fleet.copy import CopyOptions, copy
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, Layer, push_image
from packhorse.oci.reference import Location
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

APP = App().image()


@pytest.fixture
def wiring(tmp_path: Path):
    with Store.open(tmp_path / "store") as store:
        yield Wiring(store)


def sparse(wiring: Wiring, source: str, layout: Path) -> Digest:
    return copy(wiring, Location.parse(source), Location.parse(f"oci:{layout}:app"), CopyOptions(sparse=True))


def stored(layout: Path) -> list[tuple[Digest, bool]]:
    """Each layer's compressed digest, as the manifest has it, and whether its blob is there."""
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text())
    digests = [Digest.parse(layer["digest"]) for layer in manifest["layers"]]
    return [(digest, (blobs / digest.hex).exists()) for digest in digests]


def test_the_layers_of_the_run_image_are_in_the_manifest_alone(wiring: Wiring, tmp_path: Path) -> None:
    push_image(APP, wiring.store.place("app"))
    sparse(wiring, "store:app", tmp_path / "layout")
    assert [there for _, there in stored(tmp_path / "layout")] == [False, False, True, True, True]
    image = wiring.place(Location.parse(f"oci:{tmp_path / 'layout'}:app")).read()
    assert image.id == APP.id
    assert list(image.layers[-1].tar())
    with pytest.raises(FormatError, match="sparse"):
        list(image.layers[0].tar())
    copy(wiring, Location.parse("store:app"), Location.parse(f"oci:{tmp_path / 'layout'}:app"), CopyOptions())
    assert all(there for _, there in stored(tmp_path / "layout"))


def test_a_layer_that_was_never_compressed_has_the_digest_that_it_will_have(
    wiring: Wiring, tmp_path: Path
) -> None:
    plain = tuple(Layer(layer.tar, layer.diff_id, layer.size) for layer in APP.layers)
    push_image(Image(APP.config, plain), wiring.store.place("app"))
    sparse(wiring, "store:app", tmp_path / "sparse")
    copy(wiring, Location.parse("store:app"), Location.parse(f"oci:{tmp_path / 'whole'}:app"), CopyOptions())
    digests, whole = stored(tmp_path / "sparse"), stored(tmp_path / "whole")
    assert [digest for digest, _ in digests] == [digest for digest, _ in whole]
    assert [there for _, there in digests] == [False, False, True, True, True]


def test_it_goes_to_where_the_run_image_is(wiring: Wiring, tmp_path: Path) -> None:
    push_image(APP, wiring.store.place("app"))
    sparse(wiring, "store:app", tmp_path / "layout")
    with FakeRegistry() as registry:
        there = Location.parse(f"docker://{registry.host}/team/app")
        layout = Location.parse(f"oci:{tmp_path / 'layout'}:app")
        with pytest.raises(FormatError, match="sparse"):
            copy(wiring, layout, there, CopyOptions())
        push_image(stored_image(*BASE), wiring.place(there))
        copy(wiring, layout, there, CopyOptions())
        assert wiring.place(there).read().id == APP.id


def test_nobody_knows_the_run_image_of_another_image(wiring: Wiring, tmp_path: Path) -> None:
    push_image(fresh_image(tar_of({"a": b"a"})), wiring.store.place("other"))
    with pytest.raises(InputError, match="without its run image"):
        sparse(wiring, "store:other", tmp_path / "layout")
    assert not (tmp_path / "layout").exists()
