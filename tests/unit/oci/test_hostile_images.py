"""Images whose documents or bytes are wrong, each named by its defect: refused with what is wrong.

They are made in an OCI layout, whose reader a registry's shares; docker archives stand at the end.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fakes.small_image import config_of, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.oci.archive import DockerArchive, TarIndex, TarWriter
from packhorse.oci.compress import decompress
from packhorse.oci.layout import Layout
from packhorse.oci.mutate import edit_config, set_variables
from packhorse.oci.types import Config, Index, MediaType

TAR = tar_of({"a": b"a" * 3000})
BLOB = gzip.compress(TAR, mtime=0)
CONFIG = config_of(TAR).raw
HOST = Target("linux", "amd64")

Fields = dict[str, Any]


class Draft:
    """An image of one layer that a defect can be put into before it is written."""

    def __init__(self) -> None:
        self.blob, self.config = BLOB, CONFIG
        self.layer: Fields = {"mediaType": MediaType.OCI_LAYER_GZIP}
        self.manifest: Fields = {"schemaVersion": 2, "mediaType": MediaType.OCI_MANIFEST}
        self.raw_manifest: Callable[[bytes], bytes] = lambda raw: raw
        self.entry: Fields = {"mediaType": MediaType.OCI_MANIFEST}
        self.index: Fields = {"schemaVersion": 2}
        self.nested = 0

    def write(self, place: Path) -> Path:
        """Writes the layout; what a defect has set wins over what would be right."""
        blobs = place / "blobs/sha256"
        blobs.mkdir(parents=True)
        (place / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

        def put(data: bytes) -> Fields:
            (blobs / Digest.of(data).hex).write_bytes(data)
            return {"digest": str(Digest.of(data)), "size": len(data)}

        config = {"mediaType": MediaType.OCI_CONFIG, **put(self.config)}
        parts = {"config": config, "layers": [{**put(self.blob), **self.layer}], **self.manifest}
        manifest = self.raw_manifest(json.dumps(parts).encode())
        entry = {**put(manifest), **self.entry}
        index = json.dumps({"manifests": [entry], **self.index}).encode()
        for _ in range(self.nested):
            inner = {"mediaType": MediaType.OCI_INDEX, **put(index)}
            index = json.dumps({"schemaVersion": 2, "manifests": [inner]}).encode()
        (place / "index.json").write_bytes(index)
        return place


Defect = Callable[[Draft], object]

_TWO = str(Digest.of(b"two"))
REFUSED: dict[str, tuple[Defect, str]] = {
    "a layer of other bytes": (lambda d: d.layer.update(digest=_TWO), "sha256/"),
    "a layer of other content than the config says": (
        lambda d: vars(d).update(config=config_of(b"else").raw),
        "are not what they should be",
    ),
    "a layer that is longer than it should be": (
        lambda d: d.layer.update(size=len(BLOB) - 1),
        "too many bytes",
    ),
    "a layer that is shorter than it should be": (lambda d: d.layer.update(size=len(BLOB) + 1), "broke off"),
    "a layer of eight exbibytes": (lambda d: d.layer.update(size=(1 << 63) - 1), "too large"),
    "a layer of a negative size": (lambda d: d.layer.update(size=-1), "layers\\[0\\].size"),
    "a layer of a size that is no integer": (lambda d: d.layer.update(size=1e3), "layers\\[0\\].size"),
    "a layer without a size": (lambda d: d.layer.update(size=None), "layers\\[0\\].size"),
    "a layer of an unknown hash": (lambda d: d.layer.update(digest="md5:0f"), "layers\\[0\\].digest"),
    "a digest in capital letters": (lambda d: d.layer.update(digest=_TWO.upper()), "layers\\[0\\].digest"),
    "a digest that is a path": (lambda d: d.layer.update(digest="sha256:../../../x"), "layers\\[0\\].digest"),
    "a foreign layer": (
        lambda d: d.layer.update(
            mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", urls=["https://a.example"]
        ),
        "not a file system",
    ),
    "a layer that may not be distributed": (
        lambda d: d.layer.update(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        "not a file system",
    ),
    "an encrypted layer": (
        lambda d: d.layer.update(mediaType="application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        "not a file system",
    ),
    "a layer that is a config": (
        lambda d: d.layer.update(mediaType=MediaType.OCI_CONFIG),
        "not a file system",
    ),
    "fewer layers than diff IDs": (lambda d: d.manifest.update(layers=[]), "contradicts itself"),
    "more layers than are read": (lambda d: d.manifest.update(layers=[{}] * 4097), "at most 4096"),
    "a manifest that is an index as well": (
        lambda d: d.manifest.update(manifests=[]),
        "another kind of document",
    ),
    "an index that is a manifest as well": (lambda d: d.index.update(config={}), "another kind of document"),
    "a manifest of docker's first schema as well": (
        lambda d: d.manifest.update(fsLayers=[]),
        "another kind of document",
    ),
    "a manifest that says it is an index": (
        lambda d: d.manifest.update(mediaType=MediaType.OCI_INDEX),
        "has another media type than expected",
    ),
    "a manifest that its index calls an index": (
        lambda d: d.entry.update(mediaType=MediaType.OCI_INDEX),
        "has another media type than expected",
    ),
    "a manifest of the first schema": (lambda d: d.manifest.update(schemaVersion=1), "only 2"),
    "a manifest without a config": (lambda d: d.manifest.update(config=None), "manifest.config"),
    "a manifest that has one key twice": (
        lambda d: vars(d).update(raw_manifest=lambda raw: raw[:-1] + b',"layers":[]}'),
        "has the key 'layers' twice",
    ),
    "a manifest that has one key in two spellings": (
        lambda d: d.manifest.update(Layers=[]),
        "the object also has 'Layers'",
    ),
    "a manifest of another encoding": (
        lambda d: vars(d).update(raw_manifest=lambda raw: raw.decode().encode("utf-16")),
        "not JSON",
    ),
    "a manifest that is nested without end": (
        lambda d: vars(d).update(raw_manifest=lambda raw: b'{"a":' + b"[" * 1_000_000),
        "not JSON",
    ),
    "a manifest with a number of a million digits": (
        lambda d: vars(d).update(raw_manifest=lambda raw: b'{"schemaVersion":' + b"2" * 1_000_000 + b"}"),
        "not JSON",
    ),
    "a manifest of more than four mebibytes": (
        lambda d: d.manifest.update(annotations={"a": "x" * (4 << 20)}),
        "too large",
    ),
    "a config of more than four mebibytes": (
        lambda d: vars(d).update(config=CONFIG + b" " * (4 << 20)),
        "too large",
    ),
    "a manifest that is shorter than its index says": (lambda d: d.entry.update(size=10_000), "broke off"),
    "a manifest that is longer than its index says": (lambda d: d.entry.update(size=10), "too large"),
    "indexes within indexes": (lambda d: vars(d).update(nested=5), "nested more than"),
    "an index of nothing": (lambda d: d.index.update(manifests=[]), "does not have just one image"),
    "an index of ten thousand and one entries": (
        lambda d: d.index.update(manifests=[{}] * 10_001),
        "at most 10000",
    ),
    "a gzip layer that is cut": (lambda d: vars(d).update(blob=BLOB[:-4]), "ends too early"),
    "a gzip layer with a wrong sum": (lambda d: vars(d).update(blob=BLOB[:-8] + bytes(8)), "is broken"),
    "a gzip layer with something behind it": (lambda d: vars(d).update(blob=BLOB + b"x" * 30), "is broken"),
    "a zstd layer that is cut": (
        lambda d: vars(d).update(blob=zstandard.compress(TAR)[:-4]),
        "are not what they should be",
    ),
    "a zstd layer that wants two gibibytes of memory": (
        lambda d: vars(d).update(blob=b"\x28\xb5\x2f\xfd\x00\xa8" + bytes(20)),
        "is broken",
    ),
}


@pytest.mark.parametrize("defect", REFUSED)
def test_a_broken_image_is_refused_with_what_is_wrong(tmp_path: Path, defect: str) -> None:
    spoil, words = REFUSED[defect]
    draft = Draft()
    spoil(draft)
    draft.write(tmp_path / "layout")
    with pytest.raises((FormatError, NotFoundError), match=words) as raised:
        for layer in Layout(tmp_path / "layout", target=HOST).read().layers:
            assert b"".join(layer.tar()) == TAR
    assert len(str(raised.value)) < 1000


TAKEN: dict[str, Defect] = {
    "nothing": lambda d: None,
    "a layer that lies about its compression": lambda d: d.layer.update(mediaType=MediaType.OCI_LAYER_ZSTD),
    "a layer of docker's in a manifest of OCI": lambda d: d.layer.update(
        mediaType=MediaType.DOCKER_LAYER_GZIP
    ),
    "a plain layer that is called gzip": lambda d: vars(d).update(blob=TAR),
    "a gzip layer of many members": lambda d: vars(d).update(
        blob=b"".join(gzip.compress(TAR[at : at + 7]) for at in range(0, len(TAR), 7))
    ),
    "a zstd layer of many frames": lambda d: vars(d).update(
        blob=b"".join(zstandard.compress(TAR[at : at + 500]) for at in range(0, len(TAR), 500))
    ),
    "a layer with other content in its descriptor": lambda d: d.layer.update(data="YWJj"),
    "a layer that is said to be elsewhere": lambda d: d.layer.update(urls=["https://a.example/x"]),
    "a config of an unknown type": lambda d: d.manifest.update(artifactType="application/x"),
    "a manifest with a subject": lambda d: d.manifest.update(
        subject={"mediaType": MediaType.OCI_MANIFEST, "digest": _TWO, "size": 3}
    ),
    "labels that differ in case alone": lambda d: vars(d).update(
        config=edit_config(Config.parse(CONFIG), labels={"a": "1", "A": "2"}).raw
    ),
    "indexes within indexes, as some tools make them": lambda d: vars(d).update(nested=3),
}


@pytest.mark.parametrize("oddity", TAKEN)
def test_an_odd_image_is_read_for_what_it_is(tmp_path: Path, oddity: str) -> None:
    draft = Draft()
    TAKEN[oddity](draft)
    draft.write(tmp_path / "layout")
    (layer,) = Layout(tmp_path / "layout", target=HOST).read().layers
    assert b"".join(layer.tar()) == TAR


def bomb(member: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """A stream without an end, of which each chunk becomes a thousand times as much."""
    while True:
        yield member(bytes(1 << 20))


@pytest.mark.parametrize("compress", [lambda data: gzip.compress(data, 9), zstandard.compress])
def test_a_bomb_is_refused_as_soon_as_it_is_one(compress: Callable[[bytes], bytes]) -> None:
    size = 0
    with pytest.raises(FormatError, match="too large"):
        for chunk in decompress(bomb(compress), limit=50 << 20):
            size += len(chunk)
            assert len(chunk) <= 1 << 20
    assert size <= 50 << 20


@pytest.mark.system
def test_a_single_member_that_is_a_bomb_comes_in_small_chunks() -> None:
    packer = zlib.compressobj(9, wbits=31)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    assert len(data) < 200_000
    assert max(map(len, decompress([data]))) <= 1 << 20


@pytest.mark.system
def test_a_config_with_a_million_variables_is_read_and_changed() -> None:
    env = [""] * 1_000_000
    config = Config.parse(json.dumps({"config": {"Env": env}}).encode())
    assert len(config.env) == 1_000_000
    assert config.variable("PATH") is None
    assert len(set_variables(config.env, {"A": "b", "C": "d"})) == 1_000_002


def test_an_object_with_a_million_keys_of_which_one_is_there_twice_is_refused() -> None:
    keys = ",".join(f'"{number:x}":0' for number in range(300_000))
    with pytest.raises(FormatError, match="the key '0' twice"):
        Index.parse(f'{{{keys},"0":1}}'.encode())


ARCHIVES: dict[str, tuple[Callable[[Fields], object], str]] = {
    "a config that is not there": (lambda m: m.update(Config="none"), "has no none"),
    "a config outside": (lambda m: m.update(Config="../../../../etc/passwd"), "has no"),
    "a layer that is not there": (lambda m: m.update(Layers=["none"]), "not whole"),
    "a layer of other content": (
        lambda m: m.update(Layers=["config"]),
        "(?s)are not what they should be.*is the layer sha256:.* of .*a.tar",
    ),
    "a layer that is not named by a text": (lambda m: m.update(Layers=[1]), "manifest.json.*Layers"),
    "more layers than diff IDs": (lambda m: m.update(Layers=["layer"] * 2), "contradicts itself"),
    "names in two spellings": (lambda m: m.update(layers=[]), "also has"),
}


@pytest.mark.parametrize("defect", ARCHIVES)
def test_a_broken_docker_archive_is_refused_with_what_is_wrong(tmp_path: Path, defect: str) -> None:
    spoil, words = ARCHIVES[defect]
    manifest: Fields = {"Config": "config", "RepoTags": ["a:b"], "Layers": ["layer"]}
    spoil(manifest)
    with (tmp_path / "a.tar").open("wb") as file:
        writer = TarWriter(file)
        for name, data in (
            ("manifest.json", json.dumps([manifest]).encode()),
            ("config", CONFIG),
            ("layer", TAR),
        ):
            writer.add(name, [data], len(data))
        writer.close()
    with pytest.raises((FormatError, NotFoundError), match=words):
        for layer in DockerArchive(tmp_path / "a.tar").read().layers:
            assert b"".join(layer.tar()) == TAR


def test_an_archive_of_records_without_an_end_takes_one_pass(tmp_path: Path) -> None:
    """The shortest PAX records, a mebibyte of them: to copy what is left of it for each would take hours."""
    records = b"6 a=b\n" * ((1 << 20) // 6)
    block = bytearray(tar_of({"x": b"x" * len(records)})[:512])
    block[156:157] = b"x"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(block) + records + bytes(-len(records) % 512) + tar_of({"f": b"1"}))
    assert TarIndex.read(path).content("f", limit=1) == b"1"
