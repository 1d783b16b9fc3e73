"""Versions, buildpack.toml, order.toml and report.toml (buildpack.md and platform.md "Data Format")."""

from __future__ import annotations

import tomllib

import pytest

from fakes.runner import Call
from fakes.workshop import Workshop
from packhorse.base.digest import Digest
from packhorse.base.target import Distro, Target
from packhorse.errors import BuildpackApiError, InputError, NotFoundError, PlatformApiError
from packhorse.lifecycle.stages import report_toml
from packhorse.oci.place import Receipt
from packhorse.spec.api import BUILDPACK_APIS, BuildpackApi, PlatformApi
from packhorse.spec.buildpack_files import LayerToml
from packhorse.spec.buildpack_toml import Descriptor
from packhorse.spec.resolve import matches
from spec.matrix import ROOT


def descriptor(rest: str = "", *, identifier: str = "a") -> Descriptor:
    head = f'api = "0.12"\n[buildpack]\nid = "{identifier}"\nversion = "1"\n'
    return Descriptor.parse(f"{head}{rest}".encode(), "buildpack.toml")


@pytest.mark.parametrize("text", ["x", "0.x", "0.10.1", ""])
def test_B_001_B_002_B_145_a_buildpack_api_has_a_major_and_a_minor_number(text: str) -> None:
    with pytest.raises(BuildpackApiError, match="not a version of the form"):
        BuildpackApi.parse(text, owner="a", where="f:1")


@pytest.mark.parametrize("text", ["0.6", "0.13", "1", "1.10"])
def test_B_003_B_145_below_1_0_only_the_very_version_is_supported(text: str) -> None:
    assert [str(api) for api in BUILDPACK_APIS] == ["0.7", "0.8", "0.9", "0.10", "0.11", "0.12"]
    with pytest.raises(BuildpackApiError, match="needs Buildpack API"):
        BuildpackApi.parse(text, owner="a", where="f:1")


@pytest.mark.parametrize("identifier", ["app", "config", "generated", "sbom"])
def test_B_143_some_ids_are_reserved(identifier: str) -> None:
    assert descriptor(identifier="A-z0.9/x").id == "A-z0.9/x"
    with pytest.raises(InputError, match="cannot be the id"):
        descriptor(identifier=identifier)


def test_B_147_execution_environments_of_a_buildpack_are_tables_with_a_name() -> None:
    assert descriptor('[[buildpack.exec-env]]\nname = "test"\n').exec_env == ("test",)


def test_B_148_the_bundled_buildpacks_declare_their_targets() -> None:
    for name in ("nodejs", "procfile"):
        data = (ROOT / "buildpacks" / name / "buildpack.toml").read_bytes()
        found = {(target.os, target.arch) for target in Descriptor.parse(data, name).targets}
        assert found == {("linux", "amd64"), ("linux", "arm64")}


def test_B_149_a_target_has_system_architecture_variant_and_distributions() -> None:
    text = """
    [[targets]]
    os = "linux"
    arch = "arm64"
    variant = "v8"
    [[targets.distros]]
    name = "debian"
    version = "12"
    """
    (target,) = descriptor(text).targets
    assert (target.os, target.arch, target.variant) == ("linux", "arm64", "v8")
    assert target.distros == (Distro("debian", "12"),)


def test_B_150_a_buildpack_without_targets_is_for_linux() -> None:
    assert matches(descriptor(), Target("linux", "riscv64"))
    assert not matches(descriptor(), Target("windows", "amd64"))


def test_B_151_a_target_matches_where_both_sides_say_something_and_in_one_distribution() -> None:
    text = '[[targets]]\nos = "linux"\n[[targets.distros]]\nname = "a"\n[[targets.distros]]\nname = "b"\n'
    assert matches(descriptor(text), Target("linux", "amd64", distro=Distro("b", "1")))
    assert not matches(descriptor(text), Target("linux", "amd64", distro=Distro("c", "1")))
    assert not matches(descriptor(text), Target("linux", "amd64"))


def test_B_152_a_composite_names_its_buildpacks_by_id_and_version() -> None:
    with pytest.raises(InputError, match=r"order\.group\.id is missing"):
        descriptor('[[order]]\n[[order.group]]\nversion = "1"\n')


def test_B_044_types_of_a_layer_are_in_their_table() -> None:
    assert LayerToml.parse(b"[types]\nbuild = true\n", "l.toml").types.build
    with pytest.raises(InputError):
        LayerToml.parse(b"build = true\n", "l.toml")


def test_P_001_and_P_003_a_platform_api_has_two_numbers_and_is_supported() -> None:
    assert str(PlatformApi.parse("0.15")) == "0.15"
    for text in ("", "15", "0.15.0", "0.99", "v0.15"):
        with pytest.raises(PlatformApiError) as raised:
            PlatformApi.parse(text)
        assert raised.value.exit_code == 11


def test_P_158_a_buildpack_is_found_by_its_escaped_id_and_version(workshop: Workshop) -> None:
    seen = []

    def detect(call: Call) -> None:
        seen.append(call.env["CNB_BUILDPACK_DIR"])

    workshop.order((workshop.buildpack("one/two/three", "4.5", detect=detect),))
    workshop.detect()
    assert seen == ["/cnb/buildpacks/one_two_three/4.5"]


def test_P_158_a_buildpack_that_is_not_there_is_an_error_that_says_what_is(workshop: Workshop) -> None:
    a = workshop.buildpack("a", "2")
    workshop.order((type(a)("a", "3"),))
    with pytest.raises(NotFoundError, match="the builder has no buildpack a@3") as raised:
        workshop.detect()
    assert raised.value.why == "it has a 2"


def test_P_184_an_order_names_buildpacks_which_are_required_unless_it_says_otherwise() -> None:
    composite = (
        'api = "0.10"\n[buildpack]\nid = "all"\nversion = "1"\n'
        '[[order]]\n[[order.group]]\nid = "a"\nversion = "1"\n[[order.group]]\nid = "b"\noptional = true\n'
    )
    ((a, b),) = Descriptor.parse(composite.encode(), "buildpack.toml").order
    assert (str(a), a.optional, b.optional) == ("a@1", False, True)


def test_P_187_a_report_has_the_tags_and_what_the_place_knows_the_image_by() -> None:
    image, manifest = Digest("a" * 64), Digest("b" * 64)
    engine = tomllib.loads(report_toml(("app:1",), Receipt(image)).decode())
    assert engine == {"image": {"tags": ["app:1"], "image-id": str(image)}}
    registry = tomllib.loads(report_toml(("app:1", "app:2"), Receipt(image, manifest, 1234)).decode())
    assert registry == {"image": {"tags": ["app:1", "app:2"], "digest": str(manifest), "manifest-size": 1234}}
