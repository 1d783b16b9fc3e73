"""The files that the phases hand to each other, read and written as the reference does."""

from __future__ import annotations

import pytest

from packhorse.base.target import Distro, Target
from packhorse.errors import BuildpackApiError, InputError
from packhorse.lifecycle.inputs import RunImageName
from packhorse.lifecycle.labels import BuildpackRecord, LayerRecord, LayersMetadata, RunImageRecord
from packhorse.lifecycle.stages import Built, Member, metadata_toml
from packhorse.phases import files
from packhorse.phases.files import AnalyzedToml
from packhorse.spec.api import BuildpackApi, PlatformApi
from packhorse.spec.buildpack_files import Process, Require, StoreToml
from packhorse.spec.buildpack_toml import Descriptor, Ref
from packhorse.spec.resolve import PlanEntry

ANALYZED = AnalyzedToml(
    previous="registry.test/app@sha256:1111",
    run_reference="registry.test/run@sha256:2222",
    run_name="registry.test/run:1",
    target=Target("linux", "amd64", "v2", Distro("debian", "12")),
    target_id="io.test",
    metadata=LayersMetadata(
        app=("sha256:a1", "sha256:a2"),
        sbom="sha256:b",
        buildpacks=(
            BuildpackRecord(
                "a",
                "1",
                {
                    "both": LayerRecord("sha256:c", None, launch=True, cache=True),
                    "one": LayerRecord("sha256:d", {"n": 1.0}, launch=True),
                },
                StoreToml({"stored": "yes"}),
            ),
            BuildpackRecord("b", "1"),
        ),
        config="sha256:e",
        launcher="sha256:f",
        process_types="sha256:g",
        run_image=RunImageRecord("sha256:h", "registry.test/run@sha256:2222", "registry.test/run:1"),
    ),
)

TEXT = """\
[image]
  reference = "registry.test/app@sha256:1111"

[metadata]

  [[metadata.app]]
    sha = "sha256:a1"

  [[metadata.app]]
    sha = "sha256:a2"
  [metadata.sbom]
    sha = "sha256:b"

  [[metadata.buildpacks]]
    key = "a"
    version = "1"
    [metadata.buildpacks.layers]
      [metadata.buildpacks.layers.both]
        sha = "sha256:c"
        build = false
        launch = true
        cache = true
      [metadata.buildpacks.layers.one]
        sha = "sha256:d"
        build = false
        launch = true
        cache = false
        [metadata.buildpacks.layers.one.metadata]
          n = 1.0
    [metadata.buildpacks.store]
      [metadata.buildpacks.store.metadata]
        stored = "yes"

  [[metadata.buildpacks]]
    key = "b"
    version = "1"
    [metadata.buildpacks.layers]
  [metadata.config]
    sha = "sha256:e"
  [metadata.launcher]
    sha = "sha256:f"
  [metadata.process-types]
    sha = "sha256:g"
  [metadata.run-image]
    top-layer = "sha256:h"
    reference = "registry.test/run@sha256:2222"
    image = "registry.test/run:1"
  [metadata.stack]
    [metadata.stack.run-image]
      image = "registry.test/run:1"

[run-image]
  reference = "registry.test/run@sha256:2222"
  image = "registry.test/run:1"
  [run-image.target]
    id = "io.test"
    os = "linux"
    arch = "amd64"
    arch-variant = "v2"
    [run-image.target.distro]
      name = "debian"
      version = "12"
"""
"""The form in which the Go lifecycle 0.21.0 writes these values (its order of keys and its blank lines)."""


def test_analyzed_toml_is_written_as_the_reference_writes_it() -> None:
    assert ANALYZED.dump(PlatformApi(0, 12)).decode() == TEXT
    assert AnalyzedToml.parse(TEXT.encode(), "analyzed.toml") == ANALYZED


def test_an_old_analyzed_toml_has_no_name_and_no_target() -> None:
    data = ANALYZED.dump(PlatformApi(0, 11))
    assert data.decode().endswith('\n[run-image]\n  reference = "registry.test/run@sha256:2222"\n')
    assert AnalyzedToml.parse(data, "analyzed.toml").target is None


def test_an_empty_analyzed_toml_says_nothing() -> None:
    assert AnalyzedToml.parse(b"", "analyzed.toml") == AnalyzedToml()


def test_a_layer_name_that_leads_elsewhere_is_left_out() -> None:
    text = '[[metadata.buildpacks]]\nkey="a"\n[metadata.buildpacks.layers."../x"]\nsha="s"\n'
    (record,) = AnalyzedToml.parse(text.encode(), "analyzed.toml").metadata.buildpacks
    assert record.layers == {}


GROUP = (
    Member(Descriptor(BuildpackApi(0, 10), "a/b", "1", homepage="https://a.test")),
    Member(Descriptor(BuildpackApi(0, 7), "c", "2")),
)


def test_group_toml_goes_there_and_back() -> None:
    data = files.dump_group(GROUP)
    assert data.decode() == (
        '[[group]]\n  id = "a/b"\n  version = "1"\n  api = "0.10"\n  homepage = "https://a.test"\n'
        '\n[[group]]\n  id = "c"\n  version = "2"\n  api = "0.7"\n'
    )
    assert files.parse_group(data, "group.toml") == GROUP


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ('[[group]]\nversion = "1"\napi = "0.10"\n', "group.toml:1: group.id is missing"),
        (
            '[[group]]\nid = ".."\nversion = "1"\napi = "0.10"\n',
            "group.toml:2: ..@1 is not the name of a buildpack",
        ),
        (
            '[[group-extensions]]\nid = "e"\n',
            "group.toml:1: image extensions are not supported yet",
        ),
    ],
)
def test_a_broken_group_is_refused_with_its_line(text: str, issue: str) -> None:
    with pytest.raises(InputError) as raised:
        files.parse_group(text.encode(), "group.toml")
    assert issue in raised.value.issues


def test_an_api_that_is_not_supported_is_refused() -> None:
    with pytest.raises(BuildpackApiError):
        files.parse_group(b'[[group]]\nid = "a"\nversion = "1"\napi = "0.99"\n', "group.toml")


def test_plan_toml_goes_there_and_back() -> None:
    plan = (
        PlanEntry("x", (Ref("a", "1"),), (Require("x", {"v": "<1>"}), Require("x"))),
        PlanEntry("y", (Ref("b", "1"), Ref("a", "1")), (Require("y"),)),
    )
    assert files.parse_plan(files.dump_plan(plan), "plan.toml") == plan
    assert files.dump_plan(()) == b""
    assert files.parse_plan(b"", "plan.toml") == ()


@pytest.mark.parametrize("api", [PlatformApi(0, 9), PlatformApi(0, 10)])
def test_metadata_toml_is_read_as_it_was_written(api: PlatformApi) -> None:
    command = ("run", "<&>") if api.minor >= 10 else ("run",)
    built = Built(
        group=GROUP,
        processes=(
            Process("web", command, ("one",), working_dir="/w", buildpack_id="a/b"),
            Process("worker", ("sh",), None, buildpack_id="c", direct=False),
        ),
        default_process="web",
        labels=(("key", "value"),),
        slices=(("static/*",), None),
    )
    assert files.parse_built(metadata_toml(built, api), "metadata.toml", GROUP) == built


def test_run_images_are_those_of_run_toml_or_the_one_of_stack_toml() -> None:
    run = b'[[images]]\nimage = "a"\nmirrors = ["b"]\n[[images]]\nimage = "c"\n'
    assert files.parse_run_images(run, "run.toml", stack=False) == (
        RunImageName("a", ("b",)),
        RunImageName("c"),
    )
    stack = b'[run-image]\nimage = "a"\nmirrors = ["b"]\n'
    assert files.parse_run_images(stack, "stack.toml", stack=True) == (RunImageName("a", ("b",)),)
    assert files.parse_run_images(b"", "stack.toml", stack=True) == ()
