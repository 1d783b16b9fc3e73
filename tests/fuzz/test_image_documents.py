"""Whatever bytes a registry or an archive gives, they are read as a document or refused as broken."""

import contextlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError
from packhorse.oci.archive import DockerArchive, OciArchive, TarIndex
from packhorse.oci.compress import decompress, gzip
from packhorse.oci.mutate import add_layers, edit_config
from packhorse.oci.place import Image, push_image
from packhorse.oci.types import Config, Index, Manifest, MediaType

pytestmark = pytest.mark.system

DESCRIPTOR = ["mediaType", "size", "digest", "platform", "annotations", "os", "architecture", "variant"]
CONFIG = [
    "config",
    "rootfs",
    "diff_ids",
    "history",
    "created",
    "Env",
    "Labels",
    "Volumes",
    "Healthcheck",
    "Test",
]
KEYS = st.sampled_from(
    [*DESCRIPTOR, *CONFIG, "schemaVersion", "layers", "manifests", "empty_layer", "Retries"]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=9),
    st.sampled_from([2, "layers", "sha256:" + "0f" * 32, "1980-01-01T00:00:01Z", *MediaType]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=25,
)
DOCUMENTS = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(KEYS, VALUES, max_size=6).map(lambda value: json.dumps(value).encode()),
)
ON_DISK = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(DOCUMENTS, st.sampled_from(["", *MediaType]))
def test_a_manifest_or_index_is_read_or_refused(raw: bytes, media_type: str) -> None:
    for kind in (Manifest, Index):
        try:
            document = kind.parse(raw, media_type)
        except FormatError:
            continue
        assert document.raw == raw


@given(DOCUMENTS)
def test_an_index_gives_an_entry_of_its_own_or_none(raw: bytes) -> None:
    try:
        index = Index.parse(raw)
        assert index.select(Target()) in index.manifests
    except (FormatError, NotFoundError):
        pass


@given(DOCUMENTS)
def test_a_config_is_read_and_written_or_refused(raw: bytes) -> None:
    try:
        config = Config.parse(raw)
        once = edit_config(config)
    except FormatError:
        return
    assert edit_config(once) == once
    assert add_layers(once, [], created="1980-01-01T00:00:01Z", keep_history=True).diff_ids == config.diff_ids


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"]))
@settings(deadline=None)
def test_a_layer_is_decompressed_or_refused(data: bytes, magic: bytes) -> None:
    with contextlib.suppress(FormatError):
        assert len(b"".join(decompress([magic + data], limit=1 << 20))) <= 1 << 20


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_a_gzip_layer_of_ours_comes_back(data: bytes) -> None:
    assert b"".join(decompress(gzip([data]))) == data


EDITS = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=6)


def spoil(path: Path, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(path.read_bytes())
    for where, value in edits:
        data[where % len(data)] = value
    path.write_bytes(data[: len(data) - cut])


def drained(image: Image) -> list[bytes]:
    return [b"".join(layer.tar()) for layer in image.layers]


@pytest.mark.parametrize("kind", [OciArchive, DockerArchive])
@given(edits=EDITS, cut=st.sampled_from([0, 0, 1, 700, 5000]))
@ON_DISK
def test_a_spoiled_archive_is_refused_or_gives_layers_with_their_own_digests(
    tmp_path: Path, kind: Any, edits: list[tuple[int, int]], cut: int
) -> None:
    tar = tar_of({"a": b"a" * 3000})
    path = tmp_path / "a.tar"
    push_image(stored_image(tar) if kind is OciArchive else fresh_image(tar), kind(path))
    spoil(path, edits, cut)
    with contextlib.suppress(FormatError, NotFoundError):
        assert drained(kind(path).read()) == [tar]


@given(st.binary(max_size=1200), st.binary(min_size=1, max_size=1), st.integers(0, 1 << 70))
@ON_DISK
def test_an_archive_with_any_header_is_indexed_or_refused(
    tmp_path: Path, data: bytes, kind: bytes, size: int
) -> None:
    info = tarfile.TarInfo("x")
    info.size = size
    info.type = kind
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + data)
    with contextlib.suppress(FormatError):
        TarIndex.read(path)
