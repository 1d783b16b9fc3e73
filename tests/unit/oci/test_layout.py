"""OCI layout directories hold several images, keep what others put there, and are read with suspicion."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.image_problems import problems_of_layout
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.layout import Directory, Layout, read_index
from packhorse.oci.place import Layer, push_image
from packhorse.oci.types import REF_NAME, Descriptor, Index, Manifest, MediaType

A, B = tar_of({"a": b"a" * 3000}), tar_of({"b": b"b" * 3000})
ARM = Target("linux", "arm64")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return tmp_path / "layout"


def index(layout: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((layout / "index.json").read_bytes())
    return found


def rewrite(layout: Path, **fields: Any) -> None:
    (layout / "index.json").write_text(json.dumps({**index(layout), **fields}))


def add_blob(layout: Path, data: bytes) -> Digest:
    digest = Digest.of(data)
    (layout / "blobs/sha256" / digest.hex).write_bytes(data)
    return digest


def nest(layout: Path, times: int) -> None:
    """Wraps the index of a layout into an index of indexes, several times over."""
    for _ in range(times):
        raw = (layout / "index.json").read_bytes()
        inner = Descriptor(MediaType.OCI_INDEX, add_blob(layout, raw), len(raw))
        (layout / "index.json").write_bytes(Index.of([inner]).raw)


def test_a_layout_that_an_image_did_not_fit_into_is_one_without_it(tmp_path: Path) -> None:
    path = tmp_path / "layout"
    place = Layout(path)
    with pytest.raises(FormatError, match="broken"):
        place.write_layer(Layer(broken))
    assert read_index(Directory(path), "it").manifests == ()
    with pytest.raises(NotFoundError, match="does not have just one image"):
        Layout(path).read()
    push_image(stored_image(A), Layout(path))
    assert Layout(path).read().id == stored_image(A).id


def broken() -> Iterator[bytes]:
    yield b"x"
    raise FormatError("broken")


def test_the_files_of_a_layout_are_those_of_the_specification(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = index(layout)["manifests"]
    assert entry["annotations"] == {REF_NAME: "v1"}
    assert entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert sorted(path.name for path in layout.iterdir()) == ["blobs", "index.json", "oci-layout"]
    assert problems_of_layout(layout) == []


def test_the_same_image_gives_the_same_files(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        push_image(fresh_image(A, B), Layout(tmp_path / name, "v1"))
        written.append(
            {str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*.*")}
        )
    assert written[0] == written[1]


def test_an_image_without_a_name_is_the_only_one_or_the_unnamed_one(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    assert Layout(layout).read().id == fresh_image(A).id
    push_image(fresh_image(B), Layout(layout, "v2"))
    with pytest.raises(NotFoundError) as caught:
        Layout(layout).read()
    assert "v1, v2" in caught.value.why
    push_image(fresh_image(A, B), Layout(layout))
    push_image(fresh_image(B, A), Layout(layout))
    assert Layout(layout).read().id == fresh_image(B, A).id
    assert len(index(layout)["manifests"]) == 3


def test_what_others_put_into_the_index_stays(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    foreign = {"mediaType": "application/x", "digest": str(Digest.of(b"")), "size": 0, "data": "", "new": [1]}
    rewrite(
        layout, manifests=[foreign, *index(layout)["manifests"]], annotations={"a": "b"}, more={"x": None}
    )
    push_image(fresh_image(B), Layout(layout, "v1"))
    after = index(layout)
    assert after["manifests"][0] == foreign
    assert len(after["manifests"]) == 2
    assert (after["annotations"], after["more"]) == ({"a": "b"}, {"x": None})


def test_a_name_for_several_targets_gives_the_one_asked_for(layout: Path) -> None:
    for target in (Target("linux", "amd64"), ARM):
        push_image(fresh_image(A, target=target), Layout(layout, target.arch))
    entries = [{**entry, "annotations": {REF_NAME: "both"}} for entry in index(layout)["manifests"]]
    rewrite(layout, manifests=entries)
    assert Layout(layout, "both", target=ARM).read().config.target == ARM
    nest(layout, 1)
    assert Layout(layout, target=ARM).read().config.target == ARM
    with pytest.raises(NotFoundError, match="s390x"):
        Layout(layout, target=Target("linux", "s390x")).read()


def test_a_digest_of_the_layouts_own_index_stands_for_no_image(layout: Path) -> None:
    for target in (Target("linux", "amd64"), ARM):
        push_image(fresh_image(A, target=target), Layout(layout, target.arch))
    entries = [{**entry, "annotations": {REF_NAME: "both"}} for entry in index(layout)["manifests"]]
    rewrite(layout, manifests=entries)
    own = Digest.of((layout / "index.json").read_bytes())
    assert not Layout(layout, "both", target=ARM).read().has_digest(own)
    nest(layout, 1)
    inner = Digest.parse(index(layout)["manifests"][0]["digest"])
    assert Layout(layout, target=ARM).read().has_digest(inner)


def test_an_image_for_another_target_is_read_when_it_is_the_only_one(layout: Path) -> None:
    push_image(fresh_image(A, target=Target("linux", "s390x")), Layout(layout, "v1"))
    assert Layout(layout, "v1").read().config.architecture == "s390x"


def test_indexes_are_followed_only_so_deep(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout))
    nest(layout, 4)
    assert Layout(layout).read().id == fresh_image(A).id
    assert problems_of_layout(layout) == []
    nest(layout, 1)
    with pytest.raises(FormatError, match="cannot be read"):
        Layout(layout).read()


def test_a_directory_with_other_files_is_left_alone(layout: Path) -> None:
    layout.mkdir()
    (layout / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="not an OCI layout"):
        push_image(fresh_image(A), Layout(layout, "v1"))
    with pytest.raises(NotFoundError):
        Layout(layout).read()
    assert [path.name for path in layout.iterdir()] == ["thesis.txt"]


def test_a_damaged_blob_is_found_when_it_is_read(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout))
    image = Layout(layout).read()
    assert image.manifest is not None
    blob = layout / "blobs/sha256" / image.manifest.layers[0].digest.hex
    data = blob.read_bytes()
    blob.write_bytes(data[:9] + b"\0" + data[10:])  # another OS in gzip's header
    with pytest.raises(FormatError, match="not what they should be"):
        list(Layout(layout).read().layers[0].tar())
    blob.write_bytes(b"x")
    push_image(fresh_image(A), Layout(layout))
    assert b"".join(Layout(layout).read().layers[0].tar()) == A


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("oci-layout", b"{}"),
        ("oci-layout", b'{"imageLayoutVersion":"2.0.0"}'),
        ("index.json", b"{}"),
        ("index.json", b'{"schemaVersion":2,"manifests":[{}]}'),
        ("index.json", b" " * (5 << 20)),
    ],
)
def test_a_broken_layout_is_refused(layout: Path, name: str, data: bytes) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    (layout / name).write_bytes(data)
    with pytest.raises(FormatError):
        Layout(layout, "v1").read()
    assert problems_of_layout(layout)


def test_a_manifest_that_contradicts_its_config_is_refused(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    manifest = Layout(layout, "v1").read().manifest
    assert manifest is not None
    longer = Manifest.of(manifest.config, manifest.layers * 2)
    add_blob(layout, longer.raw)
    (layout / "index.json").write_bytes(Index.of([longer.descriptor]).raw)
    with pytest.raises(FormatError, match="contradicts itself"):
        Layout(layout).read()


def test_a_layer_that_is_no_file_system_is_refused(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    manifest = Layout(layout, "v1").read().manifest
    assert manifest is not None
    odd = Descriptor("application/wasm", manifest.layers[0].digest, manifest.layers[0].size)
    made = Manifest.of(manifest.config, [odd])
    add_blob(layout, made.raw)
    (layout / "index.json").write_bytes(Index.of([made.descriptor]).raw)
    with pytest.raises(FormatError, match="application/wasm"):
        Layout(layout).read()


def test_a_blob_that_is_a_fifo_is_refused_without_waiting(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    config = layout / "blobs/sha256" / fresh_image(A).id.hex
    config.unlink()
    os.mkfifo(config)
    with pytest.raises(FormatError, match="not a regular file"):
        Layout(layout, "v1").read()


def test_a_layout_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        push_image(fresh_image(A), Layout(tmp_path / "file" / "layout"))


def test_an_image_of_another_program_that_cannot_be_read_does_not_stop_writing(layout: Path) -> None:
    push_image(stored_image(A), Layout(layout, "v1"))
    (layout / "blobs/sha256" / stored_image(A).id.hex).unlink()
    push_image(fresh_image(A, user="1"), Layout(layout, "v2"))
    assert Layout(layout, "v2").read().config.user == "1"


def test_nothing_is_left_of_a_write_that_failed(layout: Path) -> None:
    push_image(fresh_image(A), Layout(layout, "v1"))
    before = sorted(layout.rglob("*"))
    image = stored_image(B)
    assert image.manifest is not None
    lying = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(b"x"), image.manifest.layers[0].size)
    with pytest.raises(FormatError):
        push_image(replace(image, layers=(replace(image.layers[0], descriptor=lying),)), Layout(layout, "v2"))
    assert sorted(layout.rglob("*")) == before


def test_a_damaged_blob_is_written_again(layout: Path) -> None:
    push_image(stored_image(A, B), Layout(layout, "v1"))
    expected = {path: path.read_bytes() for path in (layout / "blobs/sha256").iterdir()}
    for path, data in expected.items():
        path.write_bytes(bytes(len(data)))
    push_image(stored_image(A, B), Layout(layout, "v1"))
    assert {path: path.read_bytes() for path in expected} == expected
