"""What a build does for a builder whose lifecycle has an older Platform API (platform.md, 0.7 to 0.11)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fakes.runner import Call
from fakes.shell_buildpack import shell_buildpack
from fakes.tiny_builder import tiny_builder
from fakes.workshop import Workshop
from packhorse.base.digest import Digest
from packhorse.lifecycle.stages import Exported, report_toml
from packhorse.oci.place import Receipt
from packhorse.spec.api import PLATFORM_APIS, PlatformApi

CYCLONE = 'sbom-formats = ["application/vnd.cyclonedx+json"]'
BOM = '[[bom]]\nname = "a & b"\n[bom.metadata]\nz = 1\nf = 1.5\n'
ENTRY = {"name": "a & b", "metadata": {"z": 1, "f": 1.5}, "buildpack": {"id": "a", "version": "1"}}
# The encoder of lifecycle 0.21.0 writes this for the same build.toml.
BUILD_BOM = """\
[build]

  [[build.bom]]
    name = "a & b"
    [build.bom.metadata]
      f = 1.5
      z = 1
    [build.bom.buildpack]
      id = "a"
      version = "1"

"""
OWN = "buildpacksio/lifecycle"
LABELS = ("io.buildpacks.build.metadata", "io.buildpacks.lifecycle.metadata")

APIS = [str(api) for api in PLATFORM_APIS]


def writes_everything(call: Call) -> None:
    call.layer("l", "launch", "cache", files={"x": ""})
    call.write("l.sbom.cdx.json", "{}")
    call.write("store.toml", '[metadata]\nk = "v"\n')
    call.write("build.toml", BOM)
    call.write(
        "launch.toml",
        BOM + '[[processes]]\ntype = "one"\ncommand = ["x"]\n'
        '[[processes]]\ntype = "web"\ncommand = ["x", "<1>"]\nargs = ["2"]\n',
    )


def exported(workshop: Workshop, api: str, **changes: Any) -> Exported:
    workshop.set(platform_api=PlatformApi.parse(api), **changes)
    workshop.order((workshop.buildpack("a", build=writes_everything, own=CYCLONE),))
    return workshop.create()


def label(exported: Exported, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(exported.image.config.labels[name])
    return found


def is_before(api: str, other: str) -> bool:
    return PlatformApi.parse(api) < PlatformApi.parse(other)


@pytest.mark.parametrize("api", APIS)
def test_P_077_and_P_191_before_platform_api_0_10_a_command_is_one_text(workshop: Workshop, api: str) -> None:
    image = exported(workshop, api)
    written = workshop.text("/layers/config/metadata.toml") or ""
    for processes in (tomllib.loads(written)["processes"], label(image, LABELS[0])["processes"]):
        found = [(process["command"], process.get("args")) for process in processes]
        if is_before(api, "0.10"):
            assert found == [("x", []), ("x", ["<1>", "2"])]
        else:
            assert found == [(["x"], None), (["x", "<1>"], ["2"])]


@pytest.mark.parametrize("api", APIS)
def test_P_089_P_090_and_P_108_before_platform_api_0_8_there_are_no_sbom_files_and_before_0_9_no_legacy_ones(
    workshop: Workshop, api: str
) -> None:
    image = exported(workshop, api)
    there = {kind: workshop.text(f"/layers/sbom/{kind}/sbom.legacy.json") for kind in ("launch", "build")}
    assert all((text is None) == is_before(api, "0.9") for text in there.values())
    file = workshop.text("/layers/sbom/launch/a/l/sbom.cdx.json")
    has_layer = any(layer.name == "launch.sbom" for layer in image.layers)
    assert (file == "{}") == has_layer == ("sbom" in label(image, LABELS[1])) == (not is_before(api, "0.8"))


def test_P_089_in_platform_api_0_8_an_image_without_sbom_files_has_no_layer_for_them(
    workshop: Workshop,
) -> None:
    workshop.set(platform_api=PlatformApi(0, 8))
    workshop.order((workshop.buildpack("a"),))
    assert [layer.name for layer in workshop.create().layers] == ["app", "launcher", "config"]


@pytest.mark.parametrize("api", APIS)
def test_P_090_before_platform_api_0_9_the_old_bill_of_materials_is_in_metadata_toml_and_the_label(
    workshop: Workshop, api: str
) -> None:
    image = exported(workshop, api)
    written = tomllib.loads(workshop.text("/layers/config/metadata.toml") or "")
    found = (written.get("bom"), label(image, LABELS[0]).get("bom"))
    assert found == (([ENTRY], [ENTRY]) if is_before(api, "0.9") else (None, None))


@pytest.mark.parametrize("api", APIS)
def test_P_107_before_platform_api_0_9_the_bill_of_materials_of_the_build_is_in_report_toml(
    workshop: Workshop, api: str
) -> None:
    image = Digest("0" * 64)
    report = report_toml(("app:1",), Receipt(image), exported(workshop, api).build_bom).decode()
    whole = f'[image]\n  tags = ["app:1"]\n  image-id = "{image}"\n'
    assert report == (BUILD_BOM + whole if is_before(api, "0.9") else whole)


@pytest.mark.system
def test_P_107_the_report_of_a_build_on_an_older_lifecycle_has_the_bill_of_materials(tmp_path: Path) -> None:
    buildpack = shell_buildpack(tmp_path / "bp", build=f"cat > $CNB_LAYERS_DIR/build.toml <<'E'\n{BOM}E")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    with tiny_builder(tmp_path / "tiny", platforms=("0.7", "0.8")) as tiny:
        tiny.build(tmp_path / "app", buildpack, report=tmp_path / "report")
    report = tomllib.loads((tmp_path / "report" / "report.toml").read_text())
    owner = {"id": "test/shell", "version": "1.0.0"}
    assert report["build"] == {"bom": [{**ENTRY, "buildpack": owner}]}


def test_P_090_before_platform_api_0_9_a_label_without_a_bill_of_materials_says_so(
    workshop: Workshop,
) -> None:
    workshop.set(platform_api=PlatformApi(0, 8))
    workshop.order((workshop.buildpack("a"),))
    text = workshop.create().image.config.labels[LABELS[0]]
    assert text.startswith('{"bom":null,"buildpacks":')


@pytest.mark.parametrize("api", APIS)
def test_P_106_before_platform_api_0_9_the_time_of_an_image_cannot_be_set(
    workshop: Workshop, api: str
) -> None:
    image = exported(workshop, api, created=1_700_000_000).image
    is_ignored = is_before(api, "0.9")
    assert image.config.created.startswith("1980" if is_ignored else "2023")
    assert any("SOURCE_DATE_EPOCH" in line for line in workshop.notes.said) == is_ignored


@pytest.mark.parametrize("api", APIS)
def test_P_091_the_launchers_sbom_is_in_the_image_from_platform_api_0_11_on(
    workshop: Workshop, api: str
) -> None:
    workshop.tree.write("/cnb/lifecycle/launcher.sbom.cdx.json", b"{}")
    exported(workshop, api)
    text = workshop.text("/layers/sbom/launch/buildpacksio_lifecycle/launcher/sbom.cdx.json")
    assert (text is None) == is_before(api, "0.11")


@pytest.mark.parametrize("api", APIS)
def test_P_087_and_P_193_history_and_names_of_the_run_image_came_with_platform_api_0_12(
    workshop: Workshop, api: str
) -> None:
    image = exported(workshop, api)
    names = {"image": "registry.test/run", "mirrors": ["mirror.test/run"]}
    found = label(image, LABELS[1])
    is_old = is_before(api, "0.12")
    assert found["stack"] == {"runImage": names}
    assert ("image" in found["runImage"]) == ("mirrors" in found["runImage"]) == (not is_old)
    assert all(not entry.created_by for entry in image.image.config.history) == is_old
    assert len(image.image.config.history) == len(image.image.layers)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("is_cleared", [False, True])
def test_P_052_P_053_and_B_048_sbom_files_and_a_store_are_restored_as_the_platform_api_has_it(
    workshop: Workshop, api: str, is_cleared: bool
) -> None:
    exported(workshop, api)
    workshop.again()
    workshop.set(skip_restore=is_cleared)
    workshop.restore()
    has_sbom = workshop.text("/layers/a/l.sbom.cdx.json") is not None
    has_store = workshop.text("/layers/a/store.toml") is not None
    assert has_sbom == (not is_cleared and not is_before(api, "0.8"))
    assert has_store == (not is_cleared or not is_before(api, "0.10"))


def test_B_034_and_P_039_before_platform_api_0_12_no_target_is_asked_for_and_buildpacks_are_told_the_builders(
    workshop: Workshop,
) -> None:
    workshop.tree.write("/etc/os-release", b'NAME=x=y\nID=debian\nVERSION_ID="12"\n')
    other = '[[targets]]\nos = "windows"'
    workshop.set(platform_api=PlatformApi(0, 11))
    workshop.order((workshop.buildpack("a", rest=other),))
    workshop.build()
    for step in workshop.runner.commands:
        told = {name: text for name, text in step.env.items() if name.startswith("CNB_TARGET_")}
        assert told == {
            "CNB_TARGET_OS": "linux",
            "CNB_TARGET_ARCH": "amd64",
            "CNB_TARGET_DISTRO_NAME": "debian",
            "CNB_TARGET_DISTRO_VERSION": "12",
        }
