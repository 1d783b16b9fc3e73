"""What export does where things are missing, in the way, or fail half-way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.runner import Call
from fakes.shelf import OnShelf
from fakes.workshop import APP, Workshop, metadata
from packhorse.base.digest import Digest
from packhorse.errors import BuildError, ExportError, NotFoundError, PackhorseError, StoreError
from packhorse.lifecycle.export import export
from packhorse.oci.place import Image, Layer, Receipt


@dataclass(frozen=True)
class FullDisk(OnShelf):
    """A place in which the last step fails."""

    def write_image(self, image: Image) -> Receipt:
        raise StoreError("no space left")


def test_the_table_has_every_layer_with_its_size_and_owner(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", build=lambda call: call.layer("l", "launch", files={"x": "1"})),))
    exported = workshop.create()
    for row, layer in zip(exported.layers, exported.image.layers[1:], strict=True):
        tar = b"".join(layer.tar())
        assert (row.diff_id, row.size, row.is_in_previous, row.why) == (Digest.of(tar), len(tar), False, "")


def test_a_failing_place_leaves_the_cache_as_it_was(workshop: Workshop) -> None:
    build = lambda call: call.layer("l", "cache", "launch", files={"x": ""})  # noqa: E731
    workshop.order((workshop.buildpack("a", build=build),))
    built = workshop.build()
    with pytest.raises(StoreError):
        export(
            workshop.inputs,
            workshop.analyze(),
            built,
            tree=workshop.tree,
            cache=workshop.cache,
            target=FullDisk(workshop.shelf, APP),
            observer=workshop.notes,
        )
    assert workshop.cache.metadata == b""


def test_a_builder_without_a_launcher_is_told(workshop: Workshop) -> None:
    workshop.tree.remove("/cnb/lifecycle/launcher")
    workshop.order((workshop.buildpack("a"),))
    with pytest.raises(ExportError, match="the builder has no launcher"):
        workshop.create()


def test_a_launcher_that_leads_out_of_the_builder_is_none(workshop: Workshop) -> None:
    workshop.tree.remove("/cnb/lifecycle/launcher")
    (workshop.runner.root / "cnb/lifecycle/launcher").symlink_to("/etc/passwd")
    workshop.order((workshop.buildpack("a"),))
    with pytest.raises(ExportError, match="the builder has no launcher"):
        workshop.create()


def test_a_layer_that_the_image_of_before_lost_cannot_be_taken_from_it(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", build=lambda call: call.layer("l", "launch", files={"x": ""})),))
    first = workshop.create()
    lost = [layer for layer in first.image.layers if layer.diff_id != first.layers[0].diff_id]
    workshop.shelf.images[APP] = Image(first.image.config, tuple(lost))
    workshop.again()
    workshop.runner.programs["/cnb/buildpacks/a/1/bin/build"] = lambda call: call.layer("l", "launch")
    with pytest.raises(ExportError, match="no previous one takes its place"):
        workshop.create()


def test_a_cached_layer_without_contents_is_said_and_not_kept(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", build=lambda call: call.layer("l", "cache")),))
    workshop.create()
    assert "a:l is to be kept and has no contents" in workshop.notes.said
    assert json.loads(workshop.cache.metadata)["buildpacks"][0]["layers"] == {}


@pytest.mark.parametrize("path", ["layers/a/l", "layers/config", "layers/sbom/launch"])
def test_a_link_in_place_of_a_directory_is_no_layer(workshop: Workshop, path: str) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", files={"x": ""})

    workshop.order((workshop.buildpack("a", build=build),))
    built = workshop.build()
    workshop.tree.remove(f"/{path}")
    (workshop.runner.root / path).symlink_to("/etc")
    with pytest.raises(PackhorseError):
        workshop.export(built)
    with pytest.raises(NotFoundError):
        workshop.shelf.place(APP).read()


def test_a_link_to_a_directory_inside_is_not_followed_into_a_layer(workshop: Workshop) -> None:
    workshop.tree.write("/home/cnb/secret", b"secret")

    def build(call: Call) -> None:
        call.layer("l", "launch", files={"x": ""})
        (call.root / "layers/a/l/home").symlink_to("/home/cnb")

    workshop.order((workshop.buildpack("a", build=build),))
    image = workshop.create().image
    assert not any(b"secret" in b"".join(layer.tar()) for layer in image.layers)


def test_a_pattern_of_a_slice_that_is_malformed_is_told(workshop: Workshop) -> None:
    text = '[[slices]]\npaths = ["[a"]\n'
    workshop.order((workshop.buildpack("a", build=lambda call: call.write("launch.toml", text)),))
    with pytest.raises(BuildError, match="a@1 made something that cannot be used") as raised:
        workshop.create()
    assert "/layers/a/launch.toml:2: slices.paths: '[a' is not a path pattern" in raised.value.why


def test_without_processes_there_is_no_layer_for_them(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    exported = workshop.create()
    assert "process-types" not in [row.name for row in exported.layers]
    assert metadata(exported.image)["process-types"] == {"sha": ""}
    assert (exported.processes, exported.default_process) == ((), "")


def test_a_base_without_layers_has_no_top_layer(workshop: Workshop) -> None:
    scratch = Image(workshop.run_image.config.parse(b'{"os":"linux","architecture":"amd64"}'), ())
    workshop.run_image = scratch
    workshop.order((workshop.buildpack("a"),))
    label = metadata(workshop.create().image)
    assert label["runImage"]["topLayer"] == ""


def test_a_base_whose_layers_are_there_is_not_read(workshop: Workshop) -> None:
    def unreadable() -> object:
        raise AssertionError("the base was read")

    base = workshop.run_image
    layers = tuple(Layer(unreadable, layer.diff_id) for layer in base.layers)  # type: ignore[arg-type]
    workshop.run_image = Image(base.config, layers)
    workshop.order((workshop.buildpack("a"),))
    assert workshop.create().image.config.diff_ids[:1] == base.config.diff_ids


def test_the_launcher_of_the_build_before_is_not_written_again(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    for _ in range(2):
        rows = {row.name: row.diff_id for row in workshop.create().layers}
    assert workshop.shelf.brought.count(rows["launcher"]) == 1


@pytest.mark.parametrize(("minor", "expected"), [(14, None), (15, "test")])
def test_the_execution_environment_is_a_label_from_platform_api_0_15_on(
    workshop: Workshop, minor: int, expected: str | None
) -> None:
    api = type(workshop.inputs.platform_api)(0, minor)
    workshop.set(exec_env="test", platform_api=api)
    workshop.order((workshop.buildpack("a"),))
    config = workshop.create().image.config
    assert config.labels.get("io.buildpacks.exec-env") == expected
    assert config.variable("CNB_PLATFORM_API") == str(api)


def test_project_metadata_is_empty_where_none_is_given(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    assert workshop.create().image.config.labels["io.buildpacks.project.metadata"] == "{}"


def test_labels_of_buildpacks_win_over_those_before_them_and_not_over_the_execution_environment(
    workshop: Workshop,
) -> None:
    names = ("io.buildpacks.project.metadata", "io.buildpacks.base.distro.name", "io.buildpacks.exec-env")
    text = "".join(f'[[labels]]\nkey = "{name}"\nvalue = "mine"\n' for name in names)
    workshop.order((workshop.buildpack("a", build=lambda call: call.write("launch.toml", text)),))
    labels = workshop.create().image.config.labels
    assert [labels[name] for name in names] == ["mine", "mine", "production"]


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def circle(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


PLANTED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a link in a circle for a layer": ("layers/a/l", circle, "what a@1 made"),
    "a pipe for a layer's file": ("layers/a/l.toml", fifo, "what a@1 made"),
    "a pipe for store.toml": ("layers/a/store.toml", fifo, "what a@1 made"),
    "a link in a circle for the bill of materials": ("layers/sbom/launch", circle, "the bill of materials"),
    "a link in a circle for the application": ("workspace", circle, "the application"),
    "a link in a circle for what the launcher reads": (
        "layers/config",
        circle,
        "what the launcher is to know",
    ),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_what_somebody_planted_is_told_with_what_it_belongs_to(workshop: Workshop, plant: str) -> None:
    path, put, words = PLANTED[plant]
    workshop.order(
        (workshop.buildpack("a", build=lambda call: call.layer("l", "launch", "cache", files={"x": ""})),)
    )
    built = workshop.build()
    put(workshop.runner.root / path)
    with pytest.raises(ExportError) as raised:
        workshop.export(built)
    assert raised.value.what == f"{words} cannot be exported"
    assert f"/{path}" in raised.value.why


def test_a_layer_with_which_no_image_starts_is_refused_by_buildpack_and_file(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", files={"env/X": "a\0b"})

    workshop.order((workshop.buildpack("a"), workshop.buildpack("some/b", build=build)))
    with pytest.raises(ExportError, match="what some/b@1 made cannot be exported") as raised:
        workshop.create()
    assert "/layers/some_b/l/env/X has a NUL byte" in raised.value.why


@pytest.mark.parametrize(
    ("file", "text", "key"),
    [
        ("l.toml", "[types]\nlaunch = true\n[metadata]\na.b = [1, inf]\n", "l.toml:4: metadata.a.b.1 is inf"),
        ("l.toml", "[types]\ncache = true\n[metadata]\na = nan\n", "l.toml:4: metadata.a is nan"),
        (
            "l.toml",
            "[metadata]\na = 9223372036854775808\n",
            "l.toml:2: metadata.a is 9223372036854775808, which",
        ),
        ("store.toml", "[metadata.x]\na = -inf\n", "store.toml:2: metadata.x.a is -inf"),
        (
            "launch.toml",
            "[[bom]]\nname = 'x'\n[bom.metadata]\na = inf\n",
            "launch.toml:4: bom.metadata.a is inf",
        ),
    ],
)
def test_a_number_that_no_label_holds_is_named_by_buildpack_layer_and_key(
    workshop: Workshop, file: str, text: str, key: str
) -> None:
    workshop.order((workshop.buildpack("some/b", build=lambda call: call.write(file, text)),))
    with pytest.raises(BuildError, match="some/b@1 made something that cannot be used") as raised:
        workshop.create()
    assert f"/layers/some_b/{key}" in raised.value.why


def test_a_layer_that_is_not_kept_may_have_any_number(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "build", files={}, metadata="a = inf")

    workshop.order((workshop.buildpack("a", build=build),))
    assert workshop.create()
