"""Whether a buildpack runs on a target, and how that is told."""

from __future__ import annotations

import pytest

from packhorse.base.target import Distro, Target
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_toml import BuildpackTarget, Descriptor
from packhorse.spec.resolve import explain, matches

UBUNTU = Distro("ubuntu", "24.04")
ARM = Target("linux", "arm64", "v8", UBUNTU)


def buildpack(*targets: BuildpackTarget) -> Descriptor:
    return Descriptor(BuildpackApi(0, 12), "a", "1", targets=targets)


def on(os: str = "", arch: str = "", variant: str = "", *distros: Distro) -> BuildpackTarget:
    return BuildpackTarget(os, arch, variant, distros)


BIONIC = Descriptor.parse(
    b'api="0.10"\nstacks=[{id="io.buildpacks.stacks.bionic"}]\nbuildpack={id="a",version="1"}',
    "buildpack.toml",
)
ANY = Descriptor.parse(b'api="0.10"\nstacks=[{id="*"}]\nbuildpack={id="a",version="1"}', "buildpack.toml")

TABLE = {
    "nothing declared": ([], ARM, True),
    "nothing declared, and not linux": ([], Target("windows", "amd64"), False),
    "empty fields": ([on()], ARM, True),
    "all fields": ([on("linux", "arm64", "v8", UBUNTU)], ARM, True),
    "another system": ([on("windows")], ARM, False),
    "another architecture": ([on("linux", "amd64")], ARM, False),
    "another variant": ([on("linux", "arm64", "v9")], ARM, False),
    "a variant where the image has none": ([on("linux", "arm64", "v8")], Target("linux", "arm64"), True),
    "another distribution": ([on("linux", "", "", Distro("debian", "12"))], ARM, False),
    "another version": ([on("linux", "", "", Distro("ubuntu", "22.04"))], ARM, False),
    "any version": ([on("linux", "", "", Distro("ubuntu"))], ARM, True),
    "one of two distributions": ([on("linux", "", "", Distro("debian", "12"), UBUNTU)], ARM, True),
    "a distribution where the image has none": ([on("", "", "", UBUNTU)], Target("linux", "arm64"), False),
    "one of two targets": ([on("windows"), on("linux", "arm64")], ARM, True),
}


@pytest.mark.parametrize(("targets", "target", "expected"), TABLE.values(), ids=TABLE)
def test_a_target_matches(targets: list[BuildpackTarget], target: Target, expected: bool) -> None:
    assert matches(buildpack(*targets), target) is expected


def test_B_155_a_buildpack_of_the_stack_bionic_runs_on_ubuntu_18_04_and_one_of_any_stack_everywhere() -> None:
    assert matches(BIONIC, Target("linux", "amd64", "", Distro("ubuntu", "18.04")))
    assert not matches(BIONIC, Target("linux", "amd64", "", Distro("ubuntu", "22.04")))
    assert not matches(BIONIC, Target("linux", "arm64", "", Distro("ubuntu", "18.04")))
    assert not matches(BIONIC, Target("linux", "amd64"))
    assert matches(ANY, ARM)
    assert matches(ANY, Target("windows", "amd64"))


def test_an_explanation_names_both_sides() -> None:
    descriptor = buildpack(on("linux", "amd64", "", Distro("debian", "12")), on("windows", "arm64"))
    assert explain(descriptor, ARM) == (
        "it runs on linux/amd64 (debian 12); windows/arm64, the base images are linux/arm64/v8 ubuntu 24.04"
    )
    assert explain(buildpack(), Target("windows", "amd64")) == (
        "it runs on linux, the base images are windows/amd64"
    )
    assert explain(buildpack(on("", "arm64")), Target()).startswith("it runs on any/arm64, ")
    assert explain(buildpack(on("windows"), on()), Target()).startswith("it runs on windows; any, ")
