"""The oracle finds what is wrong with an image or a layout, and says nothing of one that is right."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.image_problems import problems_of_image, problems_of_layout
from fakes.small_image import Tape, fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.oci.layout import Layout
from packhorse.oci.place import Image, push_image
from packhorse.oci.types import Config, Descriptor, Index, Manifest, MediaType

A, B = tar_of({"a": b"a" * 3000}), tar_of({"b": b"b" * 3000})
GOOD = stored_image(A, B)


def with_config(**fields: object) -> Image:
    raw = json.dumps({**json.loads(GOOD.config.raw), **fields}).encode()
    return replace(GOOD, config=Config.parse(raw), manifest=None)


def with_manifest(media_type: str, layer_type: str) -> Image:
    assert GOOD.manifest
    layers = tuple(replace(layer, media_type=layer_type) for layer in GOOD.manifest.layers)
    made = Manifest.of(GOOD.manifest.config, layers)
    raw = made.raw.replace(MediaType.OCI_MANIFEST.encode(), media_type.encode())
    return replace(GOOD, manifest=Manifest.parse(raw))


def with_layer(**fields: object) -> Image:
    return replace(GOOD, layers=(replace(GOOD.layers[0], **fields), GOOD.layers[1]))  # type: ignore[arg-type]


DEFECTS: dict[str, Callable[[], Image]] = {
    "no os": lambda: with_config(os=""),
    "rootfs is not": lambda: with_config(rootfs={"diff_ids": [str(d) for d in GOOD.config.diff_ids]}),
    "not NAME=value": lambda: with_config(config={"Env": ["PATH"]}),
    "history has 1 layers": lambda: with_config(history=[{"created_by": "x"}]),
    "not a time": lambda: with_config(created="yesterday"),
    "config.config.Shell": lambda: with_config(config={"Shell": "sh"}),
    "config is not what its bytes say": lambda: replace(GOOD, config=replace(GOOD.config, user="0")),
    "diff IDs are not those": lambda: replace(GOOD, layers=GOOD.layers[:1], manifest=None),
    "describes another config": lambda: replace(GOOD, config=fresh_image(A, B, user="1").config),
    "describes other layers": lambda: replace(GOOD, layers=(GOOD.layers[1], GOOD.layers[0])),
    "has the media type application/vnd.docker": lambda: with_manifest(
        MediaType.OCI_MANIFEST, MediaType.DOCKER_LAYER_GZIP
    ),
    "has the media type application/wasm": lambda: with_manifest(
        MediaType.DOCKER_MANIFEST, "application/wasm"
    ),
    "layer 0: the bytes of": lambda: with_layer(tar=Tape(B)),
    "layer 0: sha256": lambda: with_layer(size=1),
    "not whole blocks": lambda: with_layer(tar=Tape(b"abc"), diff_id=Digest.of(b"abc")),
}


@pytest.mark.parametrize("problem", DEFECTS)
def test_a_defect_is_found(problem: str) -> None:
    assert any(problem in found for found in problems_of_image(DEFECTS[problem]()))


def test_a_damaged_blob_is_found_though_the_tar_is_right() -> None:
    assert problems_of_image(with_layer(blob=Tape(b"x")))


@pytest.mark.parametrize("media_type", [MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST])
def test_a_sound_image_has_no_problems(media_type: str) -> None:
    assert problems_of_image(stored_image(A, B, media_type=media_type)) == []
    assert problems_of_image(fresh_image(A)) != []  # nobody has read its layers, so they have no diff IDs


def test_every_problem_of_a_layout_is_listed(tmp_path: Path) -> None:
    for ref, image in {"a": fresh_image(A), "b": fresh_image(B), "good": fresh_image(A, B)}.items():
        push_image(image, Layout(tmp_path, ref))
    assert problems_of_layout(tmp_path) == []
    blobs = tmp_path / "blobs/sha256"
    (blobs / fresh_image(A).id.hex).unlink()
    (blobs / "README").write_text("x")
    index = Index.parse((tmp_path / "index.json").read_bytes())
    layer = Layout(tmp_path, "b").read().layers[0].descriptor
    assert layer
    damaged = blobs / layer.digest.hex
    damaged.write_bytes(damaged.read_bytes()[:-1])
    extra = Descriptor(MediaType.OCI_INDEX, Digest.of(b"nowhere"), 7)
    (tmp_path / "index.json").write_bytes(Index.of([*index.manifests, extra]).raw)
    problems = "\n".join(problems_of_layout(tmp_path))
    for part in (fresh_image(A).id.hex, "README", layer.digest.hex, extra.digest.hex):
        assert part in problems
    assert fresh_image(A, B).id.hex not in problems


def test_what_is_no_layout_has_one_problem(tmp_path: Path) -> None:
    assert len(problems_of_layout(tmp_path / "nothing")) == 1
