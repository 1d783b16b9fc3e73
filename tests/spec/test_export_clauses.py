"""Exporting: which layers an image has, its config and its labels (buildpack.md, platform.md "exporter")."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence

import pytest

from fakes.runner import Call, Program
from fakes.small_image import tar_of
from fakes.workshop import APP, Workshop, files, metadata
from packhorse.base.digest import Digest
from packhorse.errors import ExportError, NotFoundError
from packhorse.lifecycle.stages import Exported
from packhorse.oci.place import Image, Layer
from packhorse.oci.types import Config

PROCESS = '[[processes]]\ntype = "{0}"\ncommand = ["x"]\n'


def built(workshop: Workshop, *builds: Program, own: str = "") -> Exported:
    """An export of buildpacks a, b, … that build so."""
    refs = [
        workshop.buildpack(name, build=build, own=own) for name, build in zip("abcd", builds, strict=False)
    ]
    workshop.order(tuple(refs))
    return workshop.create()


def launches(text: str) -> Program:
    return lambda call: call.write("launch.toml", text)


def rows(exported: Exported) -> list[str]:
    return [f"{row.owner}:{row.name}" for row in exported.layers]


def content(exported: Exported, name: str) -> dict[str, str]:
    """The files of the layer that has this name in the closing table."""
    index = rows(exported).index(name)
    return files(exported.image, index - len(exported.layers))


def entries(image: Image, index: int) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(image.layers[index].tar()))) as archive:
        return archive.getmembers()


def slices(*globs: Sequence[str]) -> Program:
    return launches("".join(f"[[slices]]\npaths = {json.dumps(list(paths))}\n" for paths in globs))


def app_layers(workshop: Workshop, *globs: Sequence[str]) -> list[list[str]]:
    """The files of each layer of an app that is sliced so, relative to the app."""
    for path in ("index.js", "public/a.css", "public/img/b.png", "README"):
        workshop.tree.write(f"/workspace/{path}", b"")
    exported = built(workshop, slices(*globs))
    names = [row for row in rows(exported) if row.startswith("app:")]
    return [sorted(path.removeprefix("/workspace/") for path in content(exported, name)) for name in names]


def test_B_081_each_slice_that_matches_is_a_layer(workshop: Workshop) -> None:
    assert app_layers(workshop, ["*.js"], ["public/*"])[:2] == [
        ["index.js"],
        ["public/a.css", "public/img/b.png"],
    ]


def test_B_082_globs_are_gos_and_do_not_cross_slashes(workshop: Workshop) -> None:
    found = app_layers(workshop, ["*.css"], ["public/?.css"], ["[i-r]*.js", "READ[^a-z]*"])
    assert found[:3] == [[], ["public/a.css"], ["README", "index.js"]]


def test_B_083_globs_are_relative_to_the_app(workshop: Workshop) -> None:
    assert app_layers(workshop, ["public/../index.js"], ["public"])[:2] == [
        ["index.js"],
        ["public/a.css", "public/img/b.png"],
    ]


def test_B_084_what_an_earlier_slice_took_is_gone_for_later_ones(workshop: Workshop) -> None:
    assert app_layers(workshop, ["public/img/*"], ["public"])[:2] == [["public/img/b.png"], ["public/a.css"]]


def test_B_085_a_slice_that_matches_nothing_is_an_empty_layer(workshop: Workshop) -> None:
    exported = built(workshop, slices(["nothing"]))
    index = rows(exported).index("app:slice 1") - len(exported.layers)
    assert b"".join(exported.image.layers[index].tar()) == bytes(1024)


def test_B_086_what_no_slice_took_is_a_layer_more(workshop: Workshop) -> None:
    assert app_layers(workshop, ["*.js"])[1:] == [
        ["README", "main.py", "public/a.css", "public/img/b.png"],
    ]


def test_B_088_a_launch_layer_with_a_directory_is_in_the_image_at_its_path(workshop: Workshop) -> None:
    exported = built(workshop, lambda call: call.layer("l", "launch", files={"bin/x": "1"}))
    assert content(exported, "a:l") == {"/layers/a/l/bin/x": "1"}


def test_B_089_without_a_directory_it_is_taken_from_the_previous_image(workshop: Workshop) -> None:
    first = built(workshop, lambda call: call.layer("l", "launch", files={"x": "1"}, metadata="v = 1"))
    workshop.again()
    second = built(workshop, lambda call: call.layer("l", "launch", metadata="v = 2"))
    assert content(second, "a:l") == {"/layers/a/l/x": "1"}
    assert second.layers[0].diff_id == first.layers[0].diff_id
    assert second.layers[0].why == "taken from the previous image"
    assert metadata(second.image)["buildpacks"][0]["layers"]["l"]["data"] == {"v": 2}


def test_B_089_without_a_previous_one_the_export_fails(workshop: Workshop) -> None:
    with pytest.raises(ExportError, match="layer l of a@1 has no contents") as raised:
        built(workshop, lambda call: call.layer("l", "launch"))
    assert raised.value.exit_code == 62
    with pytest.raises(NotFoundError):
        workshop.shelf.place(APP).read()


def test_B_089_a_cached_launch_layer_must_have_contents(workshop: Workshop) -> None:
    with pytest.raises(ExportError, match="a:l has cache = true and no contents"):
        built(workshop, lambda call: call.layer("l", "launch", "cache"))


def test_B_090_P_192_a_layers_metadata_is_in_the_label_with_its_reference(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", "build", files={"x": ""}, metadata="v = [1]")
        call.layer("other", "build", "cache", files={"x": ""})

    exported = built(workshop, build)
    (record,) = metadata(exported.image)["buildpacks"]
    assert (record["key"], record["version"]) == ("a", "1")
    assert record["layers"] == {
        "l": {
            "sha": str(exported.layers[0].diff_id),
            "data": {"v": [1]},
            "build": True,
            "launch": True,
            "cache": False,
        }
    }


def test_B_091_store_toml_is_in_the_label(workshop: Workshop) -> None:
    exported = built(workshop, lambda call: call.write("store.toml", "[metadata]\nx = 1\n"))
    assert metadata(exported.image)["buildpacks"][0]["store"] == {"metadata": {"x": 1}}


def test_B_093_P_086_P_088_an_image_is_its_base_its_layers_the_app_config_and_launcher(
    workshop: Workshop,
) -> None:
    def build(call: Call) -> None:
        for name in ("z", "b"):
            call.layer(name, "launch", files={"x": ""})
        call.write("launch.toml", PROCESS.format("web"))

    exported = built(workshop, build, lambda call: call.layer("a", "launch", files={}))
    own = "buildpacksio/lifecycle"
    assert rows(exported) == [
        *("a:b", "a:z", "b:a", f"{own}:launch.sbom", "app:app"),
        *(f"{own}:launcher", f"{own}:config", f"{own}:process-types"),
    ]
    base = workshop.run_image
    assert exported.image.config.diff_ids == (
        *base.config.diff_ids,
        *(row.diff_id for row in exported.layers),
    )
    assert [entry.created_by for entry in exported.image.config.history] == [
        "layer 0",
        "Layer: 'b', Created by buildpack: a@1",
        "Layer: 'z', Created by buildpack: a@1",
        "Layer: 'a', Created by buildpack: b@1",
        "Software Bill-of-Materials",
        "Application Layer",
        "Buildpacks Application Launcher",
        "Buildpacks Launcher Config",
        "Buildpacks Process Types",
    ]
    assert exported.image.config.user == "1000:1000"
    assert exported.image.config.variable("LANG") == "C.UTF-8"


def test_P_087_layers_and_values_of_the_run_image_are_kept_unless_in_conflict(workshop: Workshop) -> None:
    layer = tar_of({"etc/motd": b"hello"})
    value = {
        "User": "1002:1000",
        "Env": ["PATH=/opt/bin:/bin", "LANG=C.UTF-8", "CNB_APP_DIR=/elsewhere"],
        "Labels": {"kept": "yes", "io.buildpacks.lifecycle.metadata": "theirs"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5},
        "StopSignal": "SIGINT",
        "Entrypoint": ["/init"],
        "Cmd": ["sh"],
        "WorkingDir": "/root",
        "Shell": ["/bin/bash"],
        "OnBuild": ["RUN true"],
    }
    document = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "author": "somebody",
        "config": value,
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer))]},
    }
    config = Config.parse(json.dumps(document).encode())
    workshop.run_image = Image(config, (Layer(lambda: iter([layer]), Digest.of(layer), len(layer)),))
    image = built(workshop, lambda call: call.write("launch.toml", PROCESS.format("web"))).image
    made = json.loads(image.config.raw)
    assert b"".join(image.layers[0].tar()) == layer
    assert {name: made[name] for name in ("os", "architecture", "variant", "author")} == {
        name: document[name] for name in ("os", "architecture", "variant", "author")
    }
    ours = {"Entrypoint": ["/cnb/lifecycle/launcher"], "WorkingDir": "/workspace"}
    conflicts = {"Env", "Labels", "Cmd", *ours}
    assert {name: made["config"].get(name) for name in value.keys() - conflicts} == {
        name: value[name] for name in value.keys() - conflicts
    }
    assert {name: made["config"][name] for name in ours} == ours
    assert "Cmd" not in made["config"]
    assert made["config"]["Env"][:3] == [
        "PATH=/cnb/process:/cnb/lifecycle:/opt/bin:/bin",
        "LANG=C.UTF-8",
        "CNB_APP_DIR=/workspace",
    ]
    assert made["config"]["Labels"]["kept"] == "yes"
    assert made["config"]["Labels"]["io.buildpacks.lifecycle.metadata"] != "theirs"


def test_B_095_B_096_P_109_P_110_cached_layers_are_recorded_with_what_they_are(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", "cache", files={"x": ""}, metadata="v = 1")
        call.layer("b", "build", "cache", files={"x": ""})
        call.layer("not", "launch", files={"x": ""})
        call.write("b.sbom.spdx.json", "bill")

    exported = built(workshop, build, own='sbom-formats = ["application/spdx+json"]')
    recorded = json.loads(workshop.cache.metadata)
    (record,) = recorded["buildpacks"]
    assert set(record["layers"]) == {"b", "l"}
    assert record["layers"]["l"]["sha"] == str(exported.layers[0].diff_id)
    assert record["layers"]["l"]["data"] == {"v": 1}
    assert recorded["sbom"]["sha"].startswith("sha256:")


def test_B_097_a_layer_that_is_not_for_launch_or_has_no_file_is_not_in_the_image(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("b", "build", files={"x": ""})
        call.write("none/x", "")

    exported = built(workshop, build)
    assert [row for row in rows(exported) if row.startswith("a:")] == []
    assert metadata(exported.image)["buildpacks"][0]["layers"] == {}


def test_B_098_the_bill_of_materials_is_that_of_this_build(workshop: Workshop) -> None:
    def bill(text: str) -> Program:
        def build(call: Call) -> None:
            call.layer("l", "launch")
            call.write("l.sbom.spdx.json", text)

        return build

    def first(call: Call) -> None:
        bill("old")(call)
        call.layer("l", "launch", files={"x": ""})

    own = 'sbom-formats = ["application/spdx+json"]'
    built(workshop, first, own=own)
    workshop.again()
    exported = built(workshop, bill("new"), own=own)
    name = "buildpacksio/lifecycle:launch.sbom"
    assert content(exported, name)["/layers/sbom/launch/a/l/sbom.spdx.json"] == "new"


def test_B_132_B_133_labels_of_buildpacks_are_set_and_the_last_of_one_name_counts(workshop: Workshop) -> None:
    one = '[[labels]]\nkey = "one"\nvalue = "{0}"\n'
    exported = built(
        workshop,
        launches(one.format("a") + '[[labels]]\nkey = "two"\nvalue = "<&>"\n'),
        launches(one.format("b")),
    )
    assert (exported.image.config.labels["one"], exported.image.config.labels["two"]) == ("b", "<&>")


def test_P_089_P_091_bills_of_materials_of_launch_layers_are_one_layer(workshop: Workshop) -> None:
    workshop.tree.write("/cnb/lifecycle/launcher.sbom.cdx.json", b"launcher")

    def build(call: Call) -> None:
        call.layer("l", "launch", files={})
        call.write("l.sbom.cdx.json", "layer")
        call.write("launch.sbom.cdx.json", "launch")

    exported = built(workshop, build, own='sbom-formats = ["application/vnd.cyclonedx+json"]')
    root = "/layers/sbom/launch"
    assert content(exported, "buildpacksio/lifecycle:launch.sbom") == {
        f"{root}/a/sbom.cdx.json": "launch",
        f"{root}/a/l/sbom.cdx.json": "layer",
        f"{root}/buildpacksio_lifecycle/launcher/sbom.cdx.json": "launcher",
        f"{root}/sbom.legacy.json": "null\n",
    }
    assert metadata(exported.image)["sbom"]["sha"] == str(exported.layers[1].diff_id)


def test_P_092_the_app_is_a_layer_of_the_cnb_user(workshop: Workshop) -> None:
    exported = built(workshop, lambda call: None)
    found = entries(exported.image, rows(exported).index("app:app") - len(exported.layers))
    assert [(entry.name, entry.mode, entry.uid, entry.gid) for entry in found] == [
        ("/workspace", 0o777, 1000, 1000),
        ("/workspace/main.py", 0o644, 1000, 1000),
    ]


def test_P_093_P_094_P_095_launcher_process_types_and_config_have_their_places(workshop: Workshop) -> None:
    exported = built(workshop, launches(PROCESS.format("web") + PROCESS.format("a.task")))
    own = "buildpacksio/lifecycle"
    assert content(exported, f"{own}:launcher") == {"/cnb/lifecycle/launcher": "launcher"}
    assert content(exported, f"{own}:process-types") == {
        "/cnb/process/a.task": "-> /cnb/lifecycle/launcher",
        "/cnb/process/web": "-> /cnb/lifecycle/launcher",
    }
    assert list(content(exported, f"{own}:config")) == ["/layers/config/metadata.toml"]


@pytest.mark.parametrize(
    ("wanted", "default", "expected"),
    [
        ("task", True, "/cnb/process/task"),
        ("", True, "/cnb/process/web"),
        ("", False, "/cnb/lifecycle/launcher"),
    ],
    ids=["P-096 as asked", "P-098 the buildpack's", "P-099 none"],
)
def test_P_010_P_096_P_098_P_099_the_entrypoint_is_a_process_type_or_the_launcher(
    workshop: Workshop, wanted: str, default: bool, expected: str
) -> None:
    workshop.set(default_process=wanted)
    web = PROCESS.format("web") + ("default = true\n" if default else "")
    exported = built(workshop, launches(web + PROCESS.format("task")))
    assert exported.image.config.entrypoint == (expected,)
    assert exported.image.config.cmd == ()


def test_P_097_a_default_process_that_does_not_exist_fails_before_anything_is_written(
    workshop: Workshop,
) -> None:
    workshop.set(default_process="other")
    with pytest.raises(ExportError, match="no process type 'other'") as raised:
        built(workshop, launches(PROCESS.format("web")))
    assert "the buildpacks made web" in raised.value.why
    with pytest.raises(NotFoundError):
        workshop.shelf.place(APP).read()


def test_P_100_P_101_P_102_variables_and_the_working_directory_are_set(workshop: Workshop) -> None:
    config = built(workshop, lambda call: None).image.config
    assert config.variable("CNB_LAYERS_DIR") == "/layers"
    assert config.variable("CNB_APP_DIR") == "/workspace"
    assert config.variable("PATH") == "/cnb/process:/cnb/lifecycle:/usr/bin:/bin"
    assert config.working_dir == "/workspace"


def test_P_103_P_191_P_195_the_image_has_the_labels_of_the_specification(workshop: Workshop) -> None:
    workshop.set(project={"source": {"type": "git", "version": {"commit": "abc"}}})
    exported = built(workshop, launches(PROCESS.format("web") + "default = true\n"))
    labels = exported.image.config.labels
    assert json.loads(labels["io.buildpacks.build.metadata"]) == {
        "buildpacks": [{"id": "a", "version": "1"}],
        "launcher": {
            "version": "0.1.0",
            "source": {"git": {"repository": "https://example.test/launcher", "commit": "abc"}},
        },
        "processes": [{"type": "web", "command": ["x"], "args": None, "direct": True, "buildpackID": "a"}],
        "buildpack-default-process-type": "web",
    }
    assert json.loads(labels["io.buildpacks.project.metadata"]) == {
        "source": {"type": "git", "version": {"commit": "abc"}}
    }
    assert set(metadata(exported.image)) >= {"app", "buildpacks", "config", "launcher", "runImage", "sbom"}
    assert labels["io.buildpacks.base.distro.name"] == "ubuntu"


def test_P_105_P_106_P_173_every_time_in_an_image_is_constant_or_as_asked(workshop: Workshop) -> None:
    def times(exported: Exported) -> set[str]:
        config = exported.image.config
        return {config.created, *(entry.created for entry in config.history)}

    first = built(workshop, lambda call: call.layer("l", "launch", files={"x": ""}))
    assert times(first) == {"1980-01-01T00:00:01Z"}
    own = range(-len(first.layers), 0)
    assert {entry.mtime for index in own for entry in entries(first.image, index)} == {315532801}
    workshop.again()
    workshop.set(created=1_700_000_000)
    second = built(workshop, lambda call: call.layer("l", "launch", files={"x": ""}))
    assert times(second) == {"2023-11-14T22:13:20Z"}
    assert [row.diff_id for row in second.layers] == [row.diff_id for row in first.layers]


def test_P_172_equal_inputs_give_equal_images(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", "launch", files={"b": "", "a": ""}, metadata="z = 1\na = 2")

    first = built(workshop, build)
    workshop.again()
    assert built(workshop, build).image.id == first.image.id


def test_P_193_P_197_the_base_is_told_by_name_mirrors_top_layer_and_reference(workshop: Workshop) -> None:
    label = metadata(built(workshop, lambda call: None).image)
    names = {"image": "registry.test/run", "mirrors": ["mirror.test/run"]}
    assert label["runImage"] == {
        "topLayer": str(workshop.run_image.config.diff_ids[-1]),
        "reference": workshop.run_image.id.hex,
        **names,
    }
    assert label["stack"] == {"runImage": names}
