"""What comes back of the last build (buildpack.md, platform.md "analyzer", "restorer")."""

from __future__ import annotations

import json
import tomllib

import pytest

from fakes.runner import Call
from fakes.workshop import APP, Workshop
from packhorse.oci.mutate import edit_config
from packhorse.oci.place import Image, push_image
from packhorse.spec.buildpack_toml import Ref

SPDX = 'sbom-formats = ["application/spdx+json"]'


def made(workshop: Workshop, *types: str, extra: str = "") -> Ref:
    """One build with the buildpack `a`, whose layer `l` has these types; then the next build begins."""

    def build(call: Call) -> None:
        call.layer("l", *types, files={"file": "content"}, metadata='v = "1"')
        call.write("l.sbom.spdx.json", "layer")
        call.write("launch.sbom.spdx.json", "launch")
        call.write("store.toml", extra)

    ref = workshop.buildpack("a", build=build, own=SPDX)
    workshop.order((ref,))
    workshop.create()
    workshop.again()
    return ref


def found(workshop: Workshop) -> dict[str, str | None]:
    """What is restored of the layer."""
    workshop.restore()
    paths = {"toml": "l.toml", "data": "l/file", "sbom": "l.sbom.spdx.json"}
    return {name: text for name, path in paths.items() if (text := workshop.text(f"/layers/a/{path}"))}


def relabel(workshop: Workshop, text: str) -> None:
    """Gives the app's image another lifecycle label."""
    image = workshop.shelf.place(APP).read()
    labels = {**image.config.labels, "io.buildpacks.lifecycle.metadata": text}
    push_image(Image(edit_config(image.config, labels=labels), image.layers), workshop.shelf.place(APP))


def test_B_041_without_a_previous_image_the_build_goes_on(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    assert workshop.analyze().previous is None
    assert workshop.restore().layers == {}


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", '{"buildpacks": 4}', '{"buildpacks": [{"layers": 1}]}']
)
def test_B_041_an_image_that_no_lifecycle_made_brings_nothing(workshop: Workshop, text: str) -> None:
    made(workshop, "launch")
    relabel(workshop, text)
    assert found(workshop) == {}


def test_B_042_and_B_051_of_a_cached_layer_file_directory_and_sbom_come_back(workshop: Workshop) -> None:
    made(workshop, "launch", "cache")
    assert set(found(workshop)) == {"toml", "data", "sbom"}


def test_B_043_store_toml_comes_back(workshop: Workshop) -> None:
    made(workshop, extra="[metadata]\nx = [1, {y = 2}]\n")
    workshop.restore()
    text = workshop.text("/layers/a/store.toml")
    assert text is not None
    assert tomllib.loads(text) == {"metadata": {"x": [1, {"y": 2}]}}


def test_B_044_types_at_the_top_of_a_layers_file_are_refused(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.write("l.toml", "launch = true\n")

    workshop.order((workshop.buildpack("a", build=build),))
    with pytest.raises(Exception, match=r"launch belongs in the \[types\] table"):
        workshop.build()


def test_B_045_a_type_that_is_not_set_is_false(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.write("l.toml", "[metadata]\nx = 1\n")
        call.write("l/file", "content")

    workshop.order((workshop.buildpack("a", build=build),))
    exported = workshop.create()
    assert "l" not in [layer.name for layer in exported.layers]
    assert b'"l"' not in workshop.cache.metadata


def test_B_046_contents_come_from_the_cache_and_never_from_the_image(workshop: Workshop) -> None:
    made(workshop, "launch", "cache")
    workshop.cache.kept.clear()
    assert found(workshop) == {}


def test_B_047_B_048_B_049_a_launch_layer_has_its_file_and_sbom_back_and_no_contents(
    workshop: Workshop,
) -> None:
    made(workshop, "launch")
    back = found(workshop)
    assert set(back) == {"toml", "sbom"}
    assert tomllib.loads(back["toml"] or "") == {"metadata": {"v": "1"}}
    assert back["sbom"] == "layer"


@pytest.mark.parametrize("types", [("build",), ("build", "launch")])
def test_B_050_nothing_comes_back_of_a_build_layer_that_is_not_cached(
    workshop: Workshop, types: tuple[str, ...]
) -> None:
    made(workshop, *types)
    assert found(workshop) == {}


def test_B_051_a_layer_comes_back_whole_or_not_at_all(workshop: Workshop) -> None:
    made(workshop, "launch", "cache")
    label = json.loads(workshop.shelf.place(APP).read().config.labels["io.buildpacks.lifecycle.metadata"])
    label["buildpacks"][0]["layers"]["l"]["sha"] = f"sha256:{'0' * 64}"
    relabel(workshop, json.dumps(label))
    assert found(workshop) == {}
    assert "a:l is left behind: its contents are not kept here" in workshop.notes.said


def test_B_052_bills_of_materials_that_are_no_layers_do_not_come_back(workshop: Workshop) -> None:
    made(workshop, "launch", "cache")
    workshop.restore()
    assert workshop.names("/layers/a") == ["l", "l.sbom.spdx.json", "l.toml", "store.toml"]
    assert workshop.names("/layers") == ["a"]


@pytest.mark.parametrize("types", [("launch",), ("cache",), ("launch", "cache"), ("build", "cache")])
def test_B_079_a_restored_layers_file_has_no_types(workshop: Workshop, types: tuple[str, ...]) -> None:
    made(workshop, *types)
    assert tomllib.loads(found(workshop)["toml"] or "") == {"metadata": {"v": "1"}}


def test_B_080_a_restored_layer_whose_types_nobody_sets_is_not_used(workshop: Workshop) -> None:
    made(workshop, "launch", "cache")
    workshop.order((workshop.buildpack("a", own=SPDX),))
    exported = workshop.create()
    assert "l" not in [layer.name for layer in exported.layers]
    assert workshop.tree.stat("/layers/a/l") is None


def test_P_027_and_P_030_analysis_gives_the_previous_image_if_there_is_one(workshop: Workshop) -> None:
    assert workshop.analyze().previous is None
    made(workshop, "launch")
    analyzed = workshop.analyze()
    assert analyzed.previous is not None
    assert [record.id for record in analyzed.metadata.buildpacks] == ["a"]
    assert analyzed.run_image is workshop.run_image


def test_P_025_P_052_P_053_P_115_without_restoration_only_store_toml_comes_back(workshop: Workshop) -> None:
    made(workshop, "launch", "cache", extra="[metadata]\nx = 1\n")
    workshop.set(skip_restore=True)
    assert found(workshop) == {}
    assert workshop.names("/layers/a") == ["store.toml"]


def test_P_054_and_P_060_layers_of_buildpacks_that_are_no_longer_in_the_group_stay_away(
    workshop: Workshop,
) -> None:
    made(workshop, "launch", "cache")
    workshop.order((workshop.buildpack("b"),))
    assert workshop.restore().layers == {}
    assert workshop.names("/layers") == []
