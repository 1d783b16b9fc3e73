"""An image of which the store has lost or damaged something: commands say what helps, and it helps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fakes.command import Command
from fakes.small_image import config_of, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError, StoreError
from packhorse.fleet.copy import CopyOptions, copy
from packhorse.host.locate import PullPolicy, fetch_first, fetch_image
from packhorse.host.wiring import Wiring
from packhorse.oci.archive import DockerArchive
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location, Reference
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

A, B = (tar_of({name: os.urandom(1_000_000)}) for name in "ab")
IMAGE = stored_image(A, B)


def blob(store: Path, digest: Digest) -> Path:
    return store / "blobs/sha256" / digest.hex


def blobs(image: Image) -> list[Digest]:
    """Every blob of an image: its layers', its config, its manifest."""
    assert image.manifest is not None
    return [*image.manifest.blobs, image.manifest.digest]


def damage(path: Path) -> None:
    """Changes one byte, and nothing else, of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def source(kind: str, folder: Path) -> Location:
    """The image outside the store."""
    push_image(IMAGE, Layout(folder / "image", "1") if kind == "oci" else DockerArchive(folder / "image"))
    return Location.parse(f"{kind}:{folder}/image" + (":1" if kind == "oci" else ""))


@pytest.mark.parametrize("kind", ["oci", "docker-archive"])
@pytest.mark.parametrize("how", ["damaged", "cut", "missing"])
def test_an_image_that_is_brought_again_is_whole_again(
    wiring: Wiring, tmp_path: Path, kind: str, how: str
) -> None:
    origin = source(kind, tmp_path)
    here = Location.parse("app")
    copy(wiring, origin, here, CopyOptions())
    stored = sorted((wiring.store.path / "blobs/sha256").iterdir())
    expected = {path: path.read_bytes() for path in stored}
    assert len(expected) >= 3
    for path in stored:
        if how == "damaged":
            damage(path)
        elif how == "cut":
            os.truncate(path, 10)
        else:
            path.unlink()
    with Store.open(wiring.store.path) as again:
        copy(Wiring(again), origin, here, CopyOptions())
    assert {path: path.read_bytes() for path in stored} == expected
    assert [b"".join(layer.tar()) for layer in wiring.store.place("app").read().layers] == [A, B]


def test_a_registry_replaces_what_is_missing(wiring: Wiring, registry: FakeRegistry) -> None:
    name = f"{registry.host}/acme/app:1"
    push_image(IMAGE, wiring.place(Location.parse(f"docker://{name}")))
    for digest in blobs(IMAGE):
        fetch_image(wiring, name, target=Target.host(), say=lambda _: None)
        blob(wiring.store.path, digest).unlink()
        for policy in PullPolicy.IF_NOT_PRESENT, PullPolicy.ALWAYS:
            image = fetch_image(wiring, name, target=Target.host(), say=lambda _: None, pull=policy)
            assert [b"".join(layer.tar()) for layer in image.layers] == [A, B]


@pytest.mark.parametrize("place", [11, 700_000])
def test_a_layer_that_turns_out_damaged_when_it_is_unpacked_is_removed_and_fetched_again(
    wiring: Wiring, registry: FakeRegistry, place: int
) -> None:
    name = f"{registry.host}/acme/app:1"
    image = stored_image(tar_of({"a": b"".join(b"%d" % number for number in range(300_000))}))
    push_image(image, wiring.place(Location.parse(f"docker://{name}")))
    [layer] = fetch_image(wiring, name, target=Target.host(), say=lambda _: None).layers
    assert layer.descriptor
    path = blob(wiring.store.path, layer.descriptor.digest)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreError, match="were damaged"):
        list(layer.tar())
    assert not path.exists()
    [again] = fetch_image(wiring, name, target=Target.host(), say=lambda _: None).layers
    assert [b"".join(again.tar())] == [b"".join(layer.tar()) for layer in image.layers]


@pytest.mark.parametrize("what", ["config", "manifest"])
def test_a_layout_that_lacks_what_describes_an_image_is_said_not_to_be_whole(
    tmp_path: Path, what: str
) -> None:
    push_image(IMAGE, Layout(tmp_path, "1"))
    assert IMAGE.manifest
    lost = IMAGE.config.digest if what == "config" else IMAGE.manifest.digest
    blob(tmp_path, lost).unlink()
    with pytest.raises(NotFoundError, match=f"{tmp_path} has no blobs/sha256/{lost.hex}") as caught:
        Layout(tmp_path, "1").read()
    assert "incomplete" in caught.value.why


@pytest.mark.parametrize("policy", PullPolicy)
def test_an_image_that_nobody_else_has_is_said_to_be_damaged(wiring: Wiring, policy: PullPolicy) -> None:
    for name in ("127.0.0.1:1/acme/app:1", "packhorse.local/acme/app:1"):
        push_image(IMAGE, wiring.store.place(name))
        lost = blobs(IMAGE)[1]
        blob(wiring.store.path, lost).unlink()
        with pytest.raises(FormatError) as caught:
            fetch_image(wiring, name, target=Target.host(), say=lambda _: None, pull=policy)
        assert f"the image {name} is incomplete in the store" in caught.value.what
        assert "is missing" in caught.value.why
        assert "packhorse copy it from where it came" in caught.value.fix


def test_a_mirror_is_asked_where_the_stores_copy_is_damaged(wiring: Wiring, registry: FakeRegistry) -> None:
    names = ["127.0.0.1:1/acme/run:1", f"{registry.host}/acme/run:1"]
    push_image(IMAGE, wiring.store.place(names[0]))
    blob(wiring.store.path, blobs(IMAGE)[1]).unlink()
    push_image(IMAGE, wiring.registry(Reference.parse(names[1]), Target.host()))
    said: list[str] = []
    assert fetch_first(wiring, names, registry="", target=Target.host(), say=said.append).id == IMAGE.id
    assert any("incomplete in the store" in line for line in said)


@pytest.mark.system
def test_the_doctor_reads_the_store_and_names_what_is_to_be_brought_again(tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    origin, other = (f"oci:{tmp_path}/{name}:1" for name in ("image", "other"))
    push_image(IMAGE, Layout(tmp_path / "image", "1"))
    push_image(stored_image(B), Layout(tmp_path / "other", "1"))
    command.ok("copy", origin, "app")
    command.ok("copy", other, "other")
    assert command.ok("doctor", "--store") == "nothing is damaged, and every image is whole"
    store = command.home / "packhorse/store"
    first = blobs(IMAGE)[1]
    damage(blob(store, first))
    (store / f"layers/{Digest.of(B).hex}.json").write_text("{")
    done = command.run("doctor", "--store", "--output", "json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["sound"]) == (6, False)
    assert found["damaged"] == [f"blobs/sha256/{first.hex}", f"layers/{Digest.of(B).hex}.json"]
    assert [(each["name"], each["missing"]) for each in found["images"]] == [
        ("app:latest", [str(Digest.of(A))])
    ]
    told = command.run("doctor", "--store")
    assert (told.returncode, "packhorse copy FROM app:latest" in told.stdout) == (6, True)
    command.ok("copy", origin, "app")
    command.ok("doctor", "--store")
    assert "app" in command.ok("images")


def test_the_doctor_finds_what_is_missing_of_an_image(wiring: Wiring) -> None:
    push_image(IMAGE, wiring.store.place("app"))
    push_image(Image(config_of(A), IMAGE.layers[:1]), wiring.store.place("part"))
    for digest in blobs(IMAGE):
        path = blob(wiring.store.path, digest)
        data = path.read_bytes()
        path.unlink()
        with Store.open(wiring.store.path) as opened:
            found = opened.find_damage(lambda _: None)
        names = [str(each.name) for each in found.images]
        shared = digest == blobs(IMAGE)[1]
        assert names == ["docker.io/library/app:latest", "docker.io/library/part:latest"][: 1 + shared]
        path.write_bytes(data)
