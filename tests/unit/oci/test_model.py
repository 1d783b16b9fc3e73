"""Descriptors, manifests, indexes and configs are read with their types checked, and keep their bytes."""

import json
from typing import Any

import pytest

from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.oci.types import MANIFEST_LIMIT, Config, Descriptor, History, Index, Manifest, MediaType

A, B = Digest("a" * 64), Digest("b" * 64)


def descriptor(**fields: Any) -> dict[str, Any]:
    return {"mediaType": MediaType.OCI_LAYER_GZIP, "digest": str(A), "size": 3, **fields}


def manifest(**fields: Any) -> bytes:
    base = {
        "schemaVersion": 2,
        "config": descriptor(mediaType=MediaType.OCI_CONFIG),
        "layers": [descriptor()],
    }
    return json.dumps({**base, **fields}).encode()


def index(*entries: dict[str, Any]) -> Index:
    return Index.parse(json.dumps({"schemaVersion": 2, "manifests": entries}).encode())


def entry(digest: Digest, arch: str, variant: str = "", os: str = "linux") -> dict[str, Any]:
    platform = {"os": os, "architecture": arch, "variant": variant}
    return descriptor(mediaType=MediaType.OCI_MANIFEST, digest=str(digest), platform=platform)


def test_a_manifest_keeps_its_bytes_and_unknown_fields() -> None:
    raw = manifest(surprise=[1, 2], annotations={"a": "b"})
    read = Manifest.parse(raw)
    assert read.raw == raw
    assert read.digest == Digest.of(raw)
    assert read.media_type == MediaType.OCI_MANIFEST
    assert read.layers == (Descriptor(MediaType.OCI_LAYER_GZIP, A, 3),)
    assert dict(read.annotations) == {"a": "b"}


def test_a_docker_manifest_is_read_as_well() -> None:
    assert (
        Manifest.parse(manifest(mediaType=MediaType.DOCKER_MANIFEST)).media_type == MediaType.DOCKER_MANIFEST
    )
    assert Manifest.parse(manifest(), MediaType.DOCKER_MANIFEST).media_type == MediaType.DOCKER_MANIFEST


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"", "manifest is not JSON"),
        (b"[]", "manifest is not a JSON object"),
        (b"NaN", "manifest is not JSON"),
        (b"\xff{}", "manifest is not JSON"),
        (b'{"a":' * 100_000, "manifest is not JSON"),
        (b" " * (MANIFEST_LIMIT + 1), "manifest is too large"),
        (manifest(schemaVersion=1), "manifest.schemaVersion"),
        (manifest(mediaType=MediaType.OCI_INDEX), "manifest does not belong to an image"),
        (manifest(mediaType="nonsense"), "manifest.mediaType"),
        (manifest(config=None), "manifest.config"),
        (manifest(config=[]), "manifest.config"),
        (manifest(layers={}), "manifest.layers"),
        (manifest(layers=[descriptor(), 3]), "manifest.layers[1]"),
        (manifest(layers=[descriptor(size="3")]), "manifest.layers[0].size"),
        (manifest(layers=[descriptor(size=-1)]), "manifest.layers[0].size"),
        (manifest(layers=[descriptor(size=True)]), "manifest.layers[0].size"),
        (manifest(layers=[descriptor(size=1.5)]), "manifest.layers[0].size"),
        (manifest(layers=[descriptor(digest="sha256:A")]), "manifest.layers[0].digest"),
        (manifest(layers=[descriptor(annotations={"a": 1})]), "manifest.layers[0].annotations.a"),
        (manifest(layers=[descriptor()] * 5000), "manifest.layers"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_place_that_is_broken(raw: bytes, where: str) -> None:
    with pytest.raises(FormatError) as caught:
        Manifest.parse(raw)
    assert caught.value.what.startswith(where)


def test_a_manifest_that_contradicts_its_descriptor_is_refused() -> None:
    with pytest.raises(FormatError, match="has another media type than expected"):
        Manifest.parse(manifest(mediaType=MediaType.OCI_MANIFEST), MediaType.DOCKER_MANIFEST)


def test_a_new_manifest_reads_back_as_itself() -> None:
    config = Descriptor(MediaType.OCI_CONFIG, A, 2)
    layers = [Descriptor(MediaType.OCI_LAYER_GZIP, B, 5, annotations={"z": "1", "a": "é"})]
    made = Manifest.of(config, layers, {"k": "v"})
    assert Manifest.parse(made.raw) == made


def test_a_new_index_reads_back_as_itself() -> None:
    entries = [Descriptor(MediaType.OCI_MANIFEST, A, 2, Target("linux", "arm64", "v8"))]
    made = Index.of(entries)
    assert Index.parse(made.raw) == made


def test_an_index_gives_the_entry_for_a_target() -> None:
    both = index(entry(A, "amd64"), entry(B, "arm64", "v8"))
    assert both.select(Target("linux", "amd64")).digest == A
    assert both.select(Target("linux", "arm64")).digest == B
    with pytest.raises(NotFoundError) as caught:
        both.select(Target("linux", "s390x"))
    assert "linux/amd64, linux/arm64/v8" in caught.value.why


def test_an_index_gives_the_best_variant_that_the_target_can_run() -> None:
    arm = index(entry(A, "arm", "v6"), entry(B, "arm", "v7"))
    assert arm.select(Target("linux", "arm")).digest == B
    assert arm.select(Target("linux", "arm", "v8")).digest == B
    assert arm.select(Target("linux", "arm", "v6")).digest == A
    with pytest.raises(NotFoundError):
        arm.select(Target("linux", "arm", "v5"))
    amd = index(entry(A, "amd64"), entry(B, "amd64", "v3"))
    assert amd.select(Target("linux", "amd64")).digest == A
    assert amd.select(Target("linux", "amd64", "v3")).digest == B


def test_an_index_never_gives_an_attestation_or_an_artifact() -> None:
    attested = index(
        entry(A, "unknown", os="unknown"), descriptor(mediaType=MediaType.OCI_MANIFEST, digest=str(B))
    )
    assert attested.select(Target("linux", "amd64")).digest == B
    with pytest.raises(NotFoundError):
        index(descriptor(mediaType="application/vnd.example+json")).select(Target("linux", "amd64"))


def test_a_config_is_read_into_its_fields() -> None:
    raw = json.dumps(
        {
            "os": "linux",
            "architecture": "arm64",
            "variant": "v8",
            "created": "1980-01-01T00:00:01Z",
            "config": {
                "Env": ["PATH=/bin", "X=a=b"],
                "User": "1000:1000",
                "Entrypoint": ["/cnb/process/web"],
                "Cmd": None,
                "WorkingDir": "/workspace",
                "Labels": {"b": "2", "a": None},
                "ExposedPorts": {"8080/tcp": {}, "443/tcp": {}},
                "StopSignal": "SIGTERM",
            },
            "rootfs": {"type": "layers", "diff_ids": [str(A), str(B)]},
            "history": [{"created_by": "x"}, {"empty_layer": True}],
        }
    ).encode()
    config = Config.parse(raw)
    assert config.raw == raw
    assert config.digest == Digest.of(raw)
    assert config.target == Target("linux", "arm64", "v8")
    assert config.env == ("PATH=/bin", "X=a=b")
    assert config.variable("X") == "a=b"
    assert config.variable("Y") is None
    assert config.cmd == ()
    assert dict(config.labels) == {"b": "2", "a": ""}
    assert config.exposed_ports == ("443/tcp", "8080/tcp")
    assert config.diff_ids == (A, B)
    assert config.history == (History(created_by="x"), History(empty_layer=True))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"os": 3}, "config.os"),
        ({"config": {"Env": "A=b"}}, "config.config.Env"),
        ({"config": {"Env": ["A=b", 1]}}, "config.config.Env[1]"),
        ({"config": {"Labels": []}}, "config.config.Labels"),
        ({"rootfs": {"diff_ids": ["x"]}}, "config.rootfs.diff_ids[0]"),
        ({"history": [{"empty_layer": "no"}]}, "config.history[0].empty_layer"),
    ],
)
def test_a_broken_config_is_refused_with_the_field_that_is_broken(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(FormatError) as caught:
        Config.parse(json.dumps(fields).encode())
    assert caught.value.what.startswith(where)


def test_an_empty_config_is_read_as_one_of_an_old_image() -> None:
    config = Config.parse(b"{}")
    assert (config.os, config.diff_ids, config.history) == ("", (), ())
