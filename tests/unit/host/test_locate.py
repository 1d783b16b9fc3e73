"""An image by name: the registry's if it has one, else the store's own."""

from __future__ import annotations

import pytest

from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.errors import NetworkError, NotFoundError
from packhorse.host.locate import fetch_first, fetch_image
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.testing import FakeRegistry, Fault

OURS, THEIRS = (stored_image(tar_of({"file": text})) for text in (b"ours", b"theirs"))


def test_an_image_that_only_the_store_has_is_used(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/builder"
        push_image(OURS, wiring.store.place(name))
        image, said = ask(wiring, name)
    assert image.id == OURS.id
    assert said == [f"{name}:latest: using the copy in the store, as its registry does not have it"]


def test_an_image_of_the_registry_takes_the_place_of_the_stores(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/builder"
        push_image(OURS, wiring.store.place(name))
        push_image(THEIRS, wiring.registry(Reference.parse(name), Target.host()))
        image, said = ask(wiring, name)
        assert image.id == THEIRS.id and said == [f"fetching {name}:latest"]
        assert ask(wiring, name)[1] == []  # nothing is fetched twice


def test_the_stores_is_used_while_the_registry_is_out_of_order(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/builder"
        push_image(OURS, wiring.store.place(name))
        registry.faults.append(Fault(path="manifests", times=99, status=403))
        image, said = ask(wiring, name)
    assert image.id == OURS.id
    assert "using the copy in the store, as its registry did not answer" in said[0]


def test_an_image_that_nobody_has_is_an_error(wiring: Wiring) -> None:
    with FakeRegistry() as registry, pytest.raises(NotFoundError):
        ask(wiring, f"{registry.host}/acme/builder")
    with pytest.raises(NetworkError, match="is not in the store and cannot be fetched"):
        ask(wiring, "127.0.0.1:1/acme/builder")


@pytest.mark.parametrize("near", ["first", "second", "nowhere"])
def test_of_several_names_one_in_the_same_registry_is_taken_first(wiring: Wiring, near: str) -> None:
    with FakeRegistry() as first, FakeRegistry() as second:
        names = [f"{first.host}/acme/run", f"{second.host}/acme/run"]
        for name, image in zip(names, (OURS, THEIRS), strict=True):
            push_image(image, wiring.registry(Reference.parse(name), Target.host()))
        host = {"first": first.host, "second": second.host}.get(near, near)
        found = fetch_first(wiring, names, registry=host, target=Target.host(), say=lambda text: None)
    assert found.id == (THEIRS if near == "second" else OURS).id


def test_a_name_that_cannot_be_had_gives_way_to_the_next(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        names = ["127.0.0.1:1/acme/run", f"{registry.host}/acme/nosuch", f"{registry.host}/acme/run"]
        push_image(OURS, wiring.registry(Reference.parse(names[2]), Target.host()))
        found = fetch_first(
            wiring, names, registry="127.0.0.1:1", target=Target.host(), say=lambda text: None
        )
        assert found.id == OURS.id
        with pytest.raises(NetworkError, match=r"127\.0\.0\.1:1/acme/run"):
            fetch_first(wiring, names[:2], registry="", target=Target.host(), say=lambda text: None)


def ask(wiring: Wiring, name: str) -> tuple[Image, list[str]]:
    said: list[str] = []
    return fetch_image(wiring, name, target=Target.host(), say=said.append), said
