"""A digest in a name stands for the image with that digest, wherever the name is written or read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.command import Command
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import InputError, NetworkError, NotFoundError
from packhorse.host.locate import PullPolicy, fetch_image
from packhorse.host.wiring import Wiring
from packhorse.oci.layout import Directory, Layout, LayoutName
from packhorse.oci.place import Image, copy, copy_all, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Index
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

HOST = Target.host()
IMAGE, OTHER = (stored_image(tar_of({"file": text}), target=HOST) for text in (b"this", b"other"))
WRONG = Digest.of(b"another image")


def digest_of(image: Image) -> Digest:
    assert image.manifest is not None
    return image.manifest.digest


def in_registry(wiring: Wiring, registry: FakeRegistry) -> tuple[str, Digest]:
    """A repository with IMAGE for this machine in an index, and the digest of that."""
    name = f"{registry.host}/acme/run"
    push_image(IMAGE, wiring.place(Location.parse(f"docker://{name}:1")))
    assert IMAGE.manifest is not None
    index = Index.of([replace(IMAGE.manifest.descriptor, target=HOST)])
    registry.put_manifest("acme/run", "index", index.raw, index.media_type)
    registry.put_manifest("acme/run", str(index.digest), index.raw, index.media_type)
    return name, index.digest


def ask(wiring: Wiring, name: str, policy: PullPolicy) -> Image:
    return fetch_image(wiring, name, target=HOST, say=lambda _: None, pull=policy)


def forget_checks(store: Path) -> None:
    """Makes the list of images what earlier versions wrote."""
    path = store / "images.json"
    fields = json.loads(path.read_text())
    for image in fields["images"]:
        image.pop("checked", None)
    path.write_text(json.dumps(fields))


def rename(store: Path, old: str, new: str) -> None:
    """Gives an image a name with any digest, as earlier versions did when they were asked to."""
    path = store / "images.json"
    path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))


def test_the_store_gives_an_image_no_name_with_another_digest(wiring: Wiring, registry: FakeRegistry) -> None:
    name = f"{registry.host}/acme/run"
    for image in (IMAGE, fresh_image(tar_of({"file": b"new"}))):
        with pytest.raises(InputError, match="it has another digest") as caught:
            push_image(image, wiring.store.place(f"{name}@{WRONG}"))
        assert caught.value.fix == f"leave the digest out: {name}:latest"
    assert wiring.store.images() == ()


@pytest.mark.parametrize("suffix", ["", ":1"])
def test_an_image_can_have_a_name_with_its_own_digest(wiring: Wiring, tmp_path: Path, suffix: str) -> None:
    push_image(IMAGE, Layout(tmp_path / "run", "1"))
    name = f"127.0.0.1:1/acme/run{suffix}@{digest_of(IMAGE)}"
    copy(Layout(tmp_path / "run", "1"), wiring.store.place(name))
    assert ask(wiring, name, PullPolicy.ALWAYS).id == IMAGE.id
    copy(wiring.store.place(name), wiring.store.place(name))
    forget_checks(wiring.store.path)
    assert ask(wiring, name, PullPolicy.NEVER).id == IMAGE.id, "its manifest shows it"


@pytest.mark.parametrize("suffix", ["", ":1"])
def test_an_image_that_was_pulled_by_the_digest_of_an_index_stays_under_it(
    wiring: Wiring, registry: FakeRegistry, tmp_path: Path, suffix: str
) -> None:
    name, index = in_registry(wiring, registry)
    pinned = f"{name}{suffix}@{index}"
    assert ask(wiring, pinned, PullPolicy.ALWAYS).id == IMAGE.id
    registry.requests.clear()
    assert ask(wiring, pinned, PullPolicy.IF_NOT_PRESENT).id == IMAGE.id
    assert registry.requests == []
    copy(wiring.store.place(pinned), wiring.store.place(pinned))
    away = LayoutName(Directory(tmp_path / "out"), "1", "out", layout=Layout(tmp_path / "out", "1"))
    copy_all(wiring.index_place(Location.parse(f"docker://{name}@{index}")), away)
    copy(Layout(tmp_path / "out", "1"), wiring.store.place(f"127.0.0.1:1/acme/run@{index}"))
    with Store.open(wiring.store.path) as again:
        assert again.place(pinned).read().id == IMAGE.id


def test_a_name_with_a_wrong_digest_of_an_earlier_version_is_not_believed(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    name, index = in_registry(wiring, registry)
    push_image(OTHER, wiring.store.place(f"{name}:other"))
    rename(wiring.store.path, f"{name}:other", f"{name}@{index}")
    with pytest.raises(NotFoundError, match=f"{OTHER.id}, is not known to have that digest"):
        wiring.store.place(f"{name}@{index}").read()
    assert ask(wiring, f"{name}@{index}", PullPolicy.IF_NOT_PRESENT).id == IMAGE.id
    assert wiring.store.place(f"{name}@{index}").read().id == IMAGE.id
    push_image(OTHER, wiring.store.place("127.0.0.1:1/acme/run:other"))
    rename(wiring.store.path, "127.0.0.1:1/acme/run:other", f"127.0.0.1:1/acme/run@{index}")
    with pytest.raises(NetworkError, match="is not in the store and cannot be fetched"):
        ask(wiring, f"127.0.0.1:1/acme/run@{index}", PullPolicy.ALWAYS)
    assert wiring.store.remove(f"127.0.0.1:1/acme/run@{index}").untagged, "it can be removed"


@pytest.mark.system
def test_no_command_takes_a_digest_for_the_name_of_what_it_makes(tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    app = tmp_path / "app"
    app.mkdir()
    pinned = f"example.test/x:1@{WRONG}"
    for words in (
        [pinned],
        ["x", "--tag", pinned],
        ["x", "--cache-image", pinned],
        *(["x", "--output", f"{kind}{pinned}"] for kind in ("docker://", "docker-daemon:")),
        ["x", "--output", f"docker-archive:{tmp_path}/x.tar:{pinned}"],
    ):
        told = command.fails(3, "build", *words, "--path", app)
        assert f"{pinned} cannot be the name of a new image" in told, words
        assert "leave the digest out: example.test/x:1" in told
    push_image(IMAGE, Layout(tmp_path / "image", "1"))
    command.ok("copy", f"oci:{tmp_path}/image:1", "mine")
    archives = [f"{kind}:{tmp_path}/x.tar:{pinned}" for kind in ("docker-archive", "oci-archive")]
    for place in (f"store:{pinned}", pinned, *archives, f"oci:{tmp_path}/image:{pinned}"):
        told = command.fails(3, "copy", "mine", place)
        assert "cannot be called example.test/x:1@" in told and "example.test/x:1\n" in f"{told}\n"
    assert not (tmp_path / "x.tar").exists()
    assert Layout(tmp_path / "image").names() == ("1",)
