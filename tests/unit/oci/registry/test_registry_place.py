"""A name in a registry as a place: images read lazily, written whole, copied byte for byte."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import zstandard

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, RegistryError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import ANONYMOUS, Credentials, constant_lookup
from packhorse.oci.place import Image, Layer, Place
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import ATTEMPTS
from packhorse.oci.types import Config, Descriptor, Index, Manifest, MediaType
from packhorse.testing import FakeRegistry, Fault

TARS = [hashlib.shake_256(bytes([i])).digest(1_500_000) for i in range(3)]
AMD64, ARM64 = Target("linux", "amd64"), Target("linux", "arm64")
PACK = {
    MediaType.OCI_LAYER_GZIP: gzip.compress,
    MediaType.OCI_LAYER_ZSTD: zstandard.ZstdCompressor().compress,
    MediaType.OCI_LAYER: bytes,
    MediaType.DOCKER_LAYER_GZIP: gzip.compress,
}


def config_of(tars: list[bytes], target: Target = AMD64) -> Config:
    fields = {
        "os": target.os,
        "architecture": target.arch,
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
    }
    return Config.parse(json.dumps(fields).encode())


def seed(
    server: FakeRegistry,
    tars: list[bytes],
    *,
    name: str = "app",
    tag: str = "latest",
    kinds: tuple[str, ...] = (MediaType.OCI_LAYER_GZIP,) * 3,
    target: Target = AMD64,
    kind: str = MediaType.OCI_MANIFEST,
) -> Manifest:
    config = config_of(tars, target)
    layers = []
    for tar, layer_kind in zip(tars, kinds, strict=False):
        blob = PACK[MediaType(layer_kind)](tar)
        layers.append(Descriptor(layer_kind, Digest.parse(server.put_blob(name, blob)), len(blob)))
    docker = kind == MediaType.DOCKER_MANIFEST
    config_kind = MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG
    server.put_blob(name, config.raw)
    fields = {
        "layers": [layer.fields() for layer in layers],
        "config": Descriptor(config_kind, config.digest, len(config.raw)).fields(),
        "schemaVersion": 2,
        "mediaType": str(kind),
        "x-unknown": "kept",
    }
    manifest = Manifest.parse(json.dumps(fields, indent=3).encode())
    server.put_manifest(name, tag, manifest.raw, kind)
    return manifest


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


def registry_of(server: FakeRegistry, credentials: Credentials | None = None) -> Registry:
    http = Client(PooledTransport(Settings()), sleep=lambda _: None)
    return Registry(server.host, http, credentials=constant_lookup(credentials or ANONYMOUS))


def place(
    server: FakeRegistry,
    name: str = "app:latest",
    *,
    target: Target = AMD64,
    registry: Registry | None = None,
) -> RegistryPlace:
    reference = Reference.parse(f"{server.host}/{name}")
    return RegistryPlace(reference, registry or registry_of(server), target=target)


def new_layer(tar: bytes) -> Layer:
    return Layer(lambda: iter([tar[i : i + 100_000] for i in range(0, len(tar), 100_000)]))


def push(target: Place, tars: list[bytes]) -> Image:
    layers = tuple(target.write_layer(new_layer(tar)) for tar in tars)
    image = Image(config_of(tars), layers)
    target.write_image(image)
    return image


def test_reading_an_image_reads_no_layer(server):
    manifest = seed(server, TARS)
    image = place(server).read()
    assert image.manifest == manifest
    assert image.id == manifest.config.digest
    assert len(server.requests) == 2


@pytest.mark.parametrize("kind", PACK)
def test_a_layer_of_any_compression_streams_as_stored_and_as_tar(server, kind):
    manifest = seed(server, TARS[:1], kinds=(kind,))
    (layer,) = place(server).read().layers
    assert b"".join(layer.tar()) == TARS[0]
    assert Digest.of(b"".join(layer.blob())) == manifest.layers[0].digest == layer.descriptor.digest
    assert layer.diff_id == Digest.of(TARS[0])


def test_an_image_of_docker_is_read(server):
    manifest = seed(server, TARS[:1], kinds=(MediaType.DOCKER_LAYER_GZIP,), kind=MediaType.DOCKER_MANIFEST)
    assert place(server).read().manifest == manifest


def test_an_index_gives_the_image_for_the_target(server):
    for target, tag in ((AMD64, "a"), (ARM64, "b")):
        seed(server, TARS[:1], tag=tag, target=target)
    entries = [
        replace(Manifest.parse(server.manifests["app", tag][1]).descriptor, target=target)
        for target, tag in ((AMD64, "a"), (ARM64, "b"))
    ]
    index = Index.of(entries)
    server.put_manifest("app", "latest", index.raw, index.media_type)
    assert place(server, target=ARM64).read().config.architecture == "arm64"
    assert place(server).read().config.architecture == "amd64"
    with pytest.raises(NotFoundError) as caught:
        place(server, target=Target("linux", "s390x")).read()
    assert "has no image for linux/s390x" in caught.value.what
    assert "linux/amd64, linux/arm64" in caught.value.why
    for _ in range(3):
        index = Index.of([replace(index.descriptor, target=AMD64)])
        server.put_manifest("app", "latest", index.raw, index.media_type)
        assert place(server).read().config.architecture == "amd64"
    index = Index.of([index.descriptor])
    server.put_manifest("app", "latest", index.raw, index.media_type)
    with pytest.raises(FormatError, match="nested more than 4 deep"):
        place(server).read()


def test_head_tells_what_is_there_without_reading_it(server):
    manifest = seed(server, TARS)
    assert place(server).head() == manifest.descriptor
    assert place(server, "app:v2").head() is None
    assert {seen.method for seen in server.requests} == {"HEAD"}


def test_a_config_that_names_fewer_layers_than_the_manifest_is_refused(server):
    manifest = seed(server, TARS)
    short = replace(manifest, layers=manifest.layers[:2])
    raw = Manifest.of(short.config, short.layers).raw
    server.put_manifest("app", "latest", raw, MediaType.OCI_MANIFEST)
    with pytest.raises(FormatError, match="contradicts itself"):
        place(server).read()


def test_an_artifact_that_is_no_image_is_refused(server):
    config = config_of(TARS[:1])
    server.put_blob("app", config.raw)
    chart = Descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", Digest.of(b"x"), 1)
    manifest = Manifest.of(Descriptor(MediaType.OCI_CONFIG, config.digest, len(config.raw)), [chart])
    server.put_manifest("app", "latest", manifest.raw, manifest.media_type)
    with pytest.raises(FormatError, match="not a file system"):
        place(server).read()


def test_a_config_of_any_size_is_not_read(server):
    manifest = Manifest.of(Descriptor(MediaType.OCI_CONFIG, Digest.of(b""), 1 << 30), [])
    server.put_manifest("app", "latest", manifest.raw, manifest.media_type)
    with pytest.raises(FormatError, match="too large"):
        place(server).read()
    assert server.find_requests("GET", "blobs") == []


def test_a_layer_that_unpacks_to_something_else_is_refused(server):
    seed(server, TARS[:1])
    config = config_of(TARS[1:2])
    server.put_blob("app", config.raw)
    blob = gzip.compress(TARS[0])
    manifest = Manifest.of(
        Descriptor(MediaType.OCI_CONFIG, config.digest, len(config.raw)),
        [Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(blob), len(blob))],
    )
    server.put_blob("app", blob)
    server.put_manifest("app", "latest", manifest.raw, manifest.media_type)
    (layer,) = place(server).read().layers
    assert b"".join(layer.blob()) == blob
    with pytest.raises(FormatError, match="not what they should be"):
        list(layer.tar())


def test_what_was_written_is_read_again(server):
    image = push(place(server), TARS)
    again = place(server).read()
    assert again.id == image.id
    assert [b"".join(layer.tar()) for layer in again.layers] == TARS
    assert {d.media_type for d in again.manifest.layers} == {MediaType.OCI_LAYER_GZIP}


def test_the_receipt_says_what_a_registry_knows_the_image_by(server):
    target = place(server)
    image = Image(config_of(TARS[:1]), (target.write_layer(new_layer(TARS[0])),))
    receipt = target.write_image(image)
    assert receipt.image_id == image.id
    found = target.head()
    assert (found.digest, found.size) == (receipt.manifest_digest, receipt.manifest_size)


def test_a_digest_as_a_name_is_the_images_own_or_told(server):
    push(place(server), TARS)
    own = place(server).head().digest
    push(place(server, f"other@{own}"), TARS)
    assert place(server, f"other@{own}").head().digest == own
    with pytest.raises(InputError, match=f"the image has another digest: {own}"):
        push(place(server, f"third@{Digest.of(b'another')}"), TARS)
    assert not any("third" in request.path for request in server.find_requests("PUT", "manifests"))


def test_what_begin_answers_can_be_read_from_the_registry(server):
    layer = place(server).write_layer(new_layer(TARS[0]))
    assert (layer.diff_id, layer.size) == (Digest.of(TARS[0]), len(TARS[0]))
    assert gzip.decompress(b"".join(layer.blob())) == TARS[0]


def test_nothing_is_under_the_name_until_the_end(server):
    target = place(server)
    target.write_layer(new_layer(TARS[0]))
    assert target.head() is None


def test_the_same_image_is_written_twice_as_the_same_bytes_and_uploaded_once(server):
    first = push(place(server), TARS)
    uploads = len(server.find_requests("POST"))
    second = push(place(server, "app:v2"), TARS)
    assert place(server).head() == place(server, "app:v2").head()
    assert first.id == second.id
    assert len(server.find_requests("POST")) == uploads == 4


def test_copying_between_registries_re_encodes_nothing(server):
    manifest = seed(server, TARS[:2], kinds=(MediaType.OCI_LAYER_ZSTD, MediaType.OCI_LAYER))
    with FakeRegistry() as other:
        image, target = place(server).read(), place(other, "copy:v1")
        receipt = target.write_image(
            replace(image, layers=tuple(target.write_layer(layer) for layer in image.layers))
        )
        assert receipt.manifest_digest == manifest.digest
        assert other.manifests["copy", "v1"] == (manifest.media_type, manifest.raw)


def test_a_manifest_that_no_longer_says_what_the_image_is_is_not_written(server):
    seed(server, TARS[:1])
    image, target = place(server).read(), place(server, "app:v2")
    changed = Config.parse(image.config.raw.replace(b'"amd64"', b'"arm64"'))
    receipt = target.write_image(replace(image, config=changed))
    assert receipt.image_id == changed.digest
    assert place(server, "app:v2").read().config == changed


def test_layers_of_docker_get_the_names_of_oci_in_a_new_manifest(server):
    seed(server, TARS[:1], kinds=(MediaType.DOCKER_LAYER_GZIP,), kind=MediaType.DOCKER_MANIFEST)
    image, target = place(server).read(), place(server, "app:v2")
    target.write_image(replace(image, manifest=None))
    assert place(server, "app:v2").read().manifest.layers[0].media_type == MediaType.OCI_LAYER_GZIP


def test_a_layer_that_another_repository_has_is_mounted_and_not_sent(server):
    seed(server, TARS, name="base")
    registry = registry_of(server)
    base, target = place(server, "base", registry=registry).read(), place(server, registry=registry)
    for layer in base.layers:
        target.write_layer(layer)
    assert server.find_requests("GET", "base/blobs")[1:] == []
    assert server.find_requests("PUT") == []
    assert server.blobs["app"].keys() == {str(layer.descriptor.digest) for layer in base.layers}


def test_a_registry_that_mounts_nothing_gets_the_bytes(server):
    seed(server, TARS[:1], name="base")
    registry = registry_of(server)
    (layer,) = place(server, "base", registry=registry).read().layers
    location = {"location": "/v2/app/blobs/uploads/77"}
    server.uploads["77"] = b""
    server.faults.append(Fault(method="POST", path="mount", status=202, headers=location))
    place(server, registry=registry).write_layer(layer)
    server.blobs["app"].clear()
    server.faults.append(Fault(method="POST", path="mount", status=403))
    registry = registry_of(server)
    (layer,) = place(server, "base", registry=registry).read().layers
    place(server, registry=registry).write_layer(layer)
    assert str(layer.descriptor.digest) in server.blobs["app"]


@pytest.mark.parametrize("fault", [{"status": 500}, {"hang_up": True}], ids=["500", "cut"])
def test_an_upload_that_fails_once_is_begun_anew(server, fault):
    server.faults.append(Fault(method="PUT", path="uploads", **fault))
    assert push(place(server), TARS[:1]).id == place(server).read().id


def test_an_upload_that_always_fails_is_an_error(server):
    server.faults.append(Fault(method="PUT", path="uploads", status=500, times=ATTEMPTS))
    with pytest.raises(RegistryError) as caught:
        place(server).write_layer(new_layer(TARS[0]))
    assert caught.value.status == 500
    assert len(server.find_requests("PUT")) == ATTEMPTS


def test_an_upload_that_is_too_large_for_the_registry_in_chunks_too_is_an_error(server):
    server.faults += [
        Fault(method=method, path="uploads", status=413, times=9) for method in ("PUT", "PATCH")
    ]
    with pytest.raises(RegistryError) as caught:
        place(server).write_layer(new_layer(TARS[0]))
    assert "larger uploads" in caught.value.fix
    assert (len(server.find_requests("PUT")), len(server.find_requests("PATCH"))) == (1, 1)


def test_a_layer_that_is_not_what_it_says_never_gets_a_name(server):
    wrong = replace(new_layer(TARS[0]), diff_id=Digest.of(b"other"))
    with pytest.raises(FormatError):
        place(server).write_layer(wrong)
    assert server.find_requests("PUT") == []


def test_a_registry_that_stores_something_else_is_caught(server):
    told = {"docker-content-digest": str(Digest.of(b"x"))}
    server.faults.append(Fault(method="PUT", path="uploads", headers=told))
    with pytest.raises(FormatError, match="something other"):
        place(server).write_layer(new_layer(TARS[0]))


def test_an_image_whose_layers_were_not_brought_is_refused(server):
    layers = (replace(new_layer(TARS[0]), diff_id=Digest.of(TARS[0])),)
    with pytest.raises(FormatError, match="not stored as a blob"):
        place(server).write_image(Image(config_of(TARS[:1]), layers))
    with pytest.raises(FormatError, match="other layers"):
        place(server).write_image(Image(config_of(TARS[:1]), ()))


def test_an_upload_address_on_another_host_sees_no_token():
    with FakeRegistry() as storage, FakeRegistry(users={"me": "pw"}) as server:
        storage.uploads["9"] = b""
        elsewhere = {"location": f"{storage.url}/v2/app/blobs/uploads/9?signed=1"}
        registry = registry_of(server, Credentials("me", "pw"))
        place(server, registry=registry).write_layer(new_layer(TARS[1]))
        server.faults.append(Fault(method="POST", status=202, headers=elsewhere))
        place(server, registry=registry).write_layer(new_layer(TARS[0]))
        assert [seen.method for seen in storage.requests] == ["PUT"]
        assert "authorization" not in storage.requests[0].headers


def test_an_upload_address_without_encryption_is_refused(server):
    where = {"location": "http://storage.example/upload"}
    server.faults.append(Fault(method="POST", status=202, headers=where))
    with pytest.raises(NetworkError, match="refusing to reach"):
        place(server).write_layer(new_layer(TARS[0]))


@pytest.mark.parametrize("location", ["https://[::1", "https://storage.example:port/", "https://:80/"])
def test_an_upload_address_that_is_none_is_an_error(server, location):
    server.faults.append(Fault(method="POST", status=202, headers={"location": location}))
    with pytest.raises(RegistryError, match="no address to upload to"):
        place(server).write_layer(new_layer(TARS[0]))


def test_who_may_only_pull_cannot_push():
    with FakeRegistry(users={None: "", "me": "pw"}) as server:
        seed(server, TARS[:1])
        assert place(server).read().layers
        with pytest.raises(RegistryError) as caught:
            place(server, "app:v2").write_layer(new_layer(TARS[1]))
        assert caught.value.status == 401
        push(place(server, "app:v2", registry=registry_of(server, Credentials("me", "pw"))), TARS)
        assert place(server, "app:v2").head() is not None


def test_many_threads_read_and_write_at_once(server):
    tars = [hashlib.shake_256(bytes([100 + i])).digest(200_000) for i in range(16)]
    target = place(server)
    with ThreadPoolExecutor(8) as threads:
        layers = tuple(threads.map(lambda tar: target.write_layer(new_layer(tar)), tars))
        target.write_image(Image(config_of(tars), layers))
        read = place(server).read().layers
        assert list(threads.map(lambda layer: b"".join(layer.tar()), read)) == tars


def test_of_many_blobs_and_repositories_the_latest_are_remembered(server):
    registry = registry_of(server)
    blobs = [Digest.of(str(number).encode()) for number in range(9000)]
    registry.remember_blobs("first", blobs)
    assert not registry.is_known_blob("first", blobs[0]) and registry.is_known_blob("first", blobs[-1])
    for number in range(99):
        registry.remember_blobs(f"app{number}", blobs[-1:])
    assert registry.find_holder(blobs[-1]) == "first" and registry.is_known_blob("app98", blobs[-1])
    assert not registry.is_known_blob("app1", blobs[-1])
