"""Which layers come back, for every combination of types, image and cache; and what must not go wrong."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from fakes.runner import Call
from fakes.workshop import APP, Workshop
from packhorse.errors import FormatError
from packhorse.lifecycle.labels import LIFECYCLE
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, push_image
from packhorse.spec.api import PlatformApi

SPDX = 'sbom-formats = ["application/spdx+json"]'
TYPES = ("build", "cache", "launch")

# By types (build, cache, launch): where the metadata comes from, and whether the contents come back.
EXPECTED = {
    "111": ("image", True),
    "011": ("image", True),
    "110": ("cache", True),
    "010": ("cache", True),
    "001": ("image", False),
    "101": (None, False),
    "100": (None, False),
    "000": (None, False),
}


class Restoring:
    """A build of the buildpack `a` with one layer, whose records in image and cache can be told apart."""

    def __init__(self, base: Path, bits: str) -> None:
        self.shop = shop = Workshop(base)
        chosen = [kind for kind, bit in zip(TYPES, bits, strict=True) if bit == "1"]

        def build(call: Call) -> None:
            call.layer("l", *chosen, files={"file": "content"})
            call.write("l.sbom.spdx.json", "bill")

        shop.order((shop.buildpack("a", build=build, own=SPDX),))
        shop.create()
        shop.again()
        self._both(lambda layer, source: layer.update(data={"from": source}))

    def found(self) -> tuple[str | None, bool, bool]:
        """Where the metadata came from, whether contents and bill of materials are there."""
        self.shop.restore()
        toml = self.shop.text("/layers/a/l.toml")
        source = next((name for name in ("image", "cache") if toml and f'"{name}"' in toml), None)
        assert (source is None) == (toml is None)
        paths = ("l/file", "l.sbom.spdx.json")
        contents, bill = (self.shop.text(f"/layers/a/{path}") is not None for path in paths)
        return source, contents, bill

    def lose_image(self) -> None:
        self.shop.shelf.images.pop(APP)

    def lose_cache(self) -> None:
        self.shop.cache.metadata = b""

    def lose_contents(self) -> None:
        self.shop.cache.kept.clear()

    def change_cache(self) -> None:
        """The cache comes of another build than the image."""
        self._both(
            lambda layer, source: layer.update(sha=f"sha256:{'0' * 64}") if source == "cache" else None
        )

    def _both(self, change: Any) -> None:
        place, cache = self.shop.shelf.place(APP), self.shop.cache
        if APP in self.shop.shelf.images:
            image = place.read()
            label = self._changed(image.config.labels[LIFECYCLE], "image", change)
            push_image(
                Image(
                    edit_config(image.config, labels={**image.config.labels, LIFECYCLE: label}), image.layers
                ),
                place,
            )
        cache.metadata = self._changed(cache.metadata, "cache", change).encode()

    def _changed(self, text: str | bytes, source: str, change: Any) -> str:
        value = json.loads(text)
        for buildpack in value["buildpacks"] or ():
            for layer in buildpack["layers"].values():
                change(layer, source)
        return json.dumps(value)


@pytest.mark.parametrize(("bits", "expected"), EXPECTED.items())
def test_image_and_cache_agree(tmp_path: Path, bits: str, expected: tuple[str | None, bool]) -> None:
    source, contents = expected
    assert Restoring(tmp_path / "shop", bits).found() == (source, contents, source is not None)


@pytest.mark.parametrize("bits", EXPECTED)
def test_without_the_cache_only_a_layer_for_launch_alone_is_told_of(tmp_path: Path, bits: str) -> None:
    case = Restoring(tmp_path / "shop", bits)
    case.lose_cache()
    assert case.found() == (("image", False, True) if bits == "001" else (None, False, False))


@pytest.mark.parametrize("bits", EXPECTED)
@pytest.mark.parametrize("minor", [12, 13, 14, 15])
def test_without_the_image_a_cached_launch_layer_comes_back_from_platform_api_0_14_on(
    tmp_path: Path, bits: str, minor: int
) -> None:
    case = Restoring(tmp_path / "shop", bits)
    case.lose_image()
    case.shop.set(platform_api=PlatformApi(0, minor))
    cached, launch = bits[1] == "1", bits[2] == "1"
    back = cached and (not launch or minor >= 14)
    assert case.found() == (("cache", True, True) if back else (None, False, False))


@pytest.mark.parametrize("bits", EXPECTED)
def test_a_cached_layer_of_another_build_than_the_image_is_left_behind(tmp_path: Path, bits: str) -> None:
    case = Restoring(tmp_path / "shop", bits)
    case.change_cache()
    assert case.found() == (("image", False, True) if bits == "001" else (None, False, False))
    left = "a:l is left behind: its contents are not kept here" in case.shop.notes.said
    assert left == (bits[1] == "1")


@pytest.mark.parametrize("bits", EXPECTED)
def test_a_cached_layer_whose_contents_are_gone_is_left_behind(tmp_path: Path, bits: str) -> None:
    case = Restoring(tmp_path / "shop", bits)
    case.lose_contents()
    assert case.found() == (("image", False, True) if bits == "001" else (None, False, False))


@pytest.mark.parametrize("bits", EXPECTED)
def test_without_restoration_nothing_comes_back(tmp_path: Path, bits: str) -> None:
    case = Restoring(tmp_path / "shop", bits)
    case.shop.set(skip_restore=True)
    assert case.found() == (None, False, False)


def test_another_version_of_a_buildpack_finds_the_layers_of_the_one_before(tmp_path: Path) -> None:
    case = Restoring(tmp_path / "shop", "111")
    case.shop.order((case.shop.buildpack("a", "2", own=SPDX),))
    assert case.found() == ("image", True, True)


def test_the_images_bill_of_materials_wins_over_the_caches(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", "cache", files={"x": ""})
        call.layer("only", "build", "cache", files={"x": ""})
        for name in ("l", "only"):
            call.write(f"{name}.sbom.spdx.json", "first")

    workshop.order((workshop.buildpack("a", build=build, own=SPDX),))
    workshop.create()
    kept = dict(workshop.cache.kept)
    (cached,) = (copy for (path, _), copy in kept.items() if path == "/layers/sbom/cache")
    (cached / "a" / "l" / "sbom.spdx.json").write_text("cache")
    (cached / "a" / "only" / "sbom.spdx.json").write_text("cache")
    workshop.again()
    workshop.restore()
    assert workshop.text("/layers/a/l.sbom.spdx.json") == "first"
    assert workshop.text("/layers/a/only.sbom.spdx.json") == "cache"


@pytest.mark.parametrize("name", ["../../workspace/x", ".", "..", "a/b", "/etc/x", "store"])
def test_a_layer_name_of_a_label_cannot_lead_elsewhere(workshop: Workshop, name: str) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.create()
    workshop.again()
    place = workshop.shelf.place(APP)
    image = place.read()
    label = json.loads(image.config.labels[LIFECYCLE])
    label["buildpacks"][0]["layers"][name] = {"sha": "", "launch": True}
    labels = {**image.config.labels, LIFECYCLE: json.dumps(label)}
    push_image(Image(edit_config(image.config, labels=labels), image.layers), place)
    before = {path: workshop.names(path) for path in ("/", "/workspace")}
    workshop.restore()
    assert {path: workshop.names(path) for path in before} == before
    assert workshop.names("/layers") == []


@pytest.mark.parametrize(
    "metadata", [b"", b"no JSON", b"\xff", b'{"sbom": {"sha": "sha256:short"}, "buildpacks": null}']
)
def test_metadata_of_a_cache_that_cannot_be_read_is_as_good_as_none(
    workshop: Workshop, metadata: bytes
) -> None:
    workshop.cache.metadata = metadata
    workshop.order((workshop.buildpack("a"),))
    assert workshop.restore().layers == {}


def test_a_bill_of_materials_layer_that_is_no_tar_is_told(tmp_path: Path) -> None:
    case = Restoring(tmp_path / "shop", "001")
    shelf = case.shop.shelf
    image = shelf.images[APP]
    broken = [
        type(layer)(lambda: iter((b"x" * 1024,)), layer.diff_id, 1024)
        if str(layer.diff_id) == json.loads(image.config.labels[LIFECYCLE])["sbom"]["sha"]
        else layer
        for layer in image.layers
    ]
    shelf.images[APP] = Image(image.config, tuple(broken))
    with pytest.raises(FormatError, match="SBOM layer is not a tar"):
        case.found()


def test_the_table_covers_every_combination_of_types() -> None:
    assert set(EXPECTED) == {"".join(bits) for bits in itertools.product("01", repeat=3)}
