"""What was pushed once is known by its digest: another push asks, and sends nothing that is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.observer import Quiet
from fakes.small_image import Tape, fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.build.deliver import publish
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, Layer, copy, push_image
from packhorse.oci.reference import Location, Reference
from packhorse.oci.types import MediaType
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry, Fault

A, B = (tar_of({name: name.encode() * 50_000}) for name in "ab")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def push(store: Store, server: FakeRegistry, name: str, compression: str = "gzip") -> None:
    """A command of its own: nothing is known but what the store has."""
    location = Location.parse(f"docker://{server.host}/{name}")
    target = Wiring(store).place(location, target=Target("linux", "amd64"), compression=compression)
    copy(store.place("app"), target)


def blobs(server: FakeRegistry, method: str) -> list[str]:
    return [seen.path for seen in server.requests if seen.method == method and "/blobs/" in seen.path]


def test_an_image_that_was_pushed_before_costs_a_question_a_layer_and_its_manifest(server, store):
    push_image(fresh_image(A, B), store.place("app"))
    push(store, server, "app:1")
    server.requests.clear()
    push(store, server, "app:2")
    assert [seen.method for seen in server.requests] == ["HEAD", "HEAD", "HEAD", "PUT"]
    assert server.manifests["app", "1"] == server.manifests["app", "2"]


def test_another_repository_of_the_registry_takes_layers_over(server, store):
    push_image(fresh_image(A), store.place("app"))
    push(store, server, "first:1")
    server.requests.clear()
    push(store, server, "second:1")
    (config,) = blobs(server, "PUT")
    assert "digest=" in config
    assert len([path for path in blobs(server, "POST") if "from=first" in path]) == 1
    assert server.manifests["second", "1"] == server.manifests["first", "1"]


def test_what_is_gone_there_is_sent_again(server, store):
    push_image(fresh_image(A), store.place("app"))
    push(store, server, "first:1")
    server.blobs.clear()
    server.manifests.clear()
    push(store, server, "first:1")
    push(store, server, "second:1")
    assert server.manifests["second", "1"] == server.manifests["first", "1"]


def test_another_compression_is_another_blob_and_both_are_pushed(server, store):
    push_image(fresh_image(A), store.place("app"))
    push(store, server, "app:gzip")
    push(store, server, "app:zstd", "zstd")
    push(store, server, "app:again")
    assert server.manifests["app", "gzip"] == server.manifests["app", "again"]
    assert MediaType.OCI_LAYER_ZSTD.encode() in server.manifests["app", "zstd"][1]
    assert server.manifests["app", "gzip"] != server.manifests["app", "zstd"]


def test_a_layer_that_came_compressed_is_never_compressed_anew(server, store):
    image = stored_image(A)
    push_image(image, store.place("app"))
    push(store, server, "app:1", "zstd")
    assert image.manifest is not None
    assert server.manifests["app", "1"][1] == image.manifest.raw
    (layer,) = store.place("app").read().layers
    assert layer.descriptor == image.layers[0].descriptor


def test_a_layer_whose_blob_is_in_the_store_is_found_there_after_a_push_in_another_form(server, store):
    push_image(stored_image(A), store.place("app"))
    wiring = Wiring(store)
    target = wiring.place(Location.parse(f"docker://{server.host}/app"))
    tape = Tape(A)
    target.write_layer(Layer(tape, Digest.of(A)))
    (layer,) = store.place("app").read().layers
    assert b"".join(layer.tar()) == A


def test_no_base_layer_is_downloaded_to_be_uploaded(server, store):
    base = stored_image(A)
    wiring = Wiring(store)
    push_image(base, wiring.place(Location.parse(f"docker://{server.host}/base")))
    source = wiring.place(Location.parse(f"docker://{server.host}/base")).read()
    server.requests.clear()
    app = fresh_image(A, B)
    layers = (*source.layers, app.layers[1])
    push_image(Image(app.config, layers), wiring.place(Location.parse(f"docker://{server.host}/team/app")))
    assert blobs(server, "GET") == []
    assert len(blobs(server, "PUT")) == 2  # the app's layer and the config


def test_what_passes_through_from_another_registry_is_not_remembered(server, store):
    image = stored_image(A)
    with FakeRegistry() as other:
        source = Wiring(store).place(Location.parse(f"docker://{other.host}/app"))
        push_image(image, source)
        assert store.compressed_form(Digest.of(A)) is None
        copy(source, Wiring(store).place(Location.parse(f"docker://{server.host}/app")))
    assert store.compressed_form(Digest.of(A)) is None


def test_a_layer_that_another_program_pushed_under_the_name_is_not_sent_again(server, store):
    theirs = push_theirs(server, "app:1")
    push_image(fresh_image(A, B), store.place("app"))
    sent = server.sent
    push(store, server, "app:1")
    assert layer_digests(server, "app", "1") == [layer.descriptor.digest for layer in theirs.layers]
    assert server.sent - sent < 2_000  # the config
    # The blob was fetched and unpacked once: it is a form of the layer everywhere from then on.
    assert store.compressed_form(Digest.of(A)).digest == theirs.layers[0].descriptor.digest
    server.requests.clear()
    push(store, server, "app:1")
    push(store, server, "other:1")
    assert layer_digests(server, "other", "1") == layer_digests(server, "app", "1")
    assert not [path for path in blobs(server, "GET") if str(theirs.layers[0].descriptor.digest) in path]


def test_what_an_image_claims_of_a_layer_counts_under_its_own_name_alone(server, store):
    theirs = push_theirs(server, "app:1")
    push_image(fresh_image(A, B), store.place("app"))
    push(store, server, "app:2")
    push(store, server, "another:1")
    for name, tag in (("app", "2"), ("another", "1")):
        assert layer_digests(server, name, tag)[0] != theirs.layers[0].descriptor.digest


def test_a_layer_that_the_registry_has_lost_or_has_in_another_compression_is_sent(server, store):
    theirs = push_theirs(server, "app:1")
    del server.blobs["app"][str(theirs.layers[0].descriptor.digest)]
    push_image(fresh_image(A, B), store.place("app"))
    push(store, server, "app:1")
    first, second = layer_digests(server, "app", "1")
    assert first != theirs.layers[0].descriptor.digest
    assert second == theirs.layers[1].descriptor.digest
    push_theirs(server, "zstd:1")
    push(store, server, "zstd:1", "zstd")
    assert MediaType.OCI_LAYER_GZIP.encode() not in server.manifests["zstd", "1"][1]


def test_a_layer_that_the_registry_has_and_does_not_give_is_sent(server, store):
    theirs = push_theirs(server, "app:1")
    digest = str(theirs.layers[0].descriptor.digest)
    server.faults.append(Fault("GET", f"/blobs/{digest}", times=99, status=404))
    push_image(fresh_image(A, B), store.place("app"))
    push(store, server, "app:1")
    first, second = layer_digests(server, "app", "1")
    assert first != theirs.layers[0].descriptor.digest and second == theirs.layers[1].descriptor.digest


def test_further_tags_of_a_repository_are_given_to_the_image_there(server, store):
    push_theirs(server, "app:1")
    push_image(fresh_image(A, B), store.place("app"))
    names = [Reference.parse(f"{server.host}/{name}") for name in ("app:1", "app:2", "app:3", "other:1")]
    server.requests.clear()
    publish(Wiring(store), store.place("app"), names, "gzip", Quiet())
    assert server.manifests["app", "1"] == server.manifests["app", "2"] == server.manifests["app", "3"]
    assert [
        seen.path for seen in server.requests if seen.method == "PUT" and "/app/blobs/" in seen.path
    ] == []
    assert ("other", "1") in server.manifests


def push_theirs(server: FakeRegistry, name: str) -> Image:
    """Pushes an image with the same layers as another program does: in docker's form, other gzip."""
    image = stored_image(A, B, media_type=MediaType.DOCKER_MANIFEST)
    push_image(image, Wiring(None).place(Location.parse(f"docker://{server.host}/{name}")))
    return image


def layer_digests(server: FakeRegistry, repository: str, tag: str) -> list[Digest]:
    manifest = json.loads(server.manifests[repository, tag][1])
    return [Digest.parse(layer["digest"]) for layer in manifest["layers"]]
