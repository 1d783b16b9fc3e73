"""What happens around each bin/build, and what is said when it goes wrong or leaves something odd."""

from __future__ import annotations

import os
import tomllib

import pytest

from fakes.runner import Call, Program
from fakes.workshop import Workshop
from packhorse.errors import BuildError, BuildpackFailed, ExportError


def built(workshop: Workshop, *builds: Program, own: str = "") -> None:
    named = zip("abcd", builds, strict=False)
    workshop.order(tuple(workshop.buildpack(name, build=build, own=own) for name, build in named))
    workshop.build()


def writes(**files: str) -> Program:
    def build(call: Call) -> None:
        for name, text in files.items():
            call.write(name.replace("__", "/").replace("_toml", ".toml"), text)

    return build


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (3, "exit status 3"),
        (128, "exit status 128"),
        (137, "ended by signal 9"),
        (192, "ended by signal 64"),
        (254, "exit status 254"),
    ],
)
def test_a_failure_says_how_it_ended_and_how_to_repeat_it(workshop: Workshop, status: int, how: str) -> None:
    with pytest.raises(BuildpackFailed) as raised:
        built(workshop, lambda call: status)
    assert raised.value.what == f"a@1 failed ({how})"
    assert raised.value.command == "again /cnb/buildpacks/a/1/bin/build"


def test_a_limit_that_was_met_is_named_and_nothing_is_left_to_repeat_it(workshop: Workshop) -> None:
    def build(call: Call) -> int:
        call.exceeded = "it met the limit of 5 processes"
        return 137

    with pytest.raises(BuildpackFailed) as raised:
        built(workshop, build)
    assert raised.value.why == "it met the limit of 5 processes"
    assert "--limit" in raised.value.fix
    assert raised.value.command == ""


def test_a_buildpack_without_bin_build_fails_by_name(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    del workshop.runner.programs["/cnb/buildpacks/a/1/bin/build"]
    with pytest.raises(BuildpackFailed, match="a@1 cannot be run") as raised:
        workshop.build()
    assert "/cnb/buildpacks/a/1/bin/build" in raised.value.why


def test_what_a_buildpack_prints_is_handed_on_with_its_id(workshop: Workshop) -> None:
    built(workshop, lambda call: call.say("one"), lambda call: call.say("two"))
    assert workshop.notes.outputs == [("a", "one\n"), ("b", "two\n")]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("l.toml", "[types]\nlaunch = 1\n", "/layers/a/l.toml:2: types.launch must be true or false"),
        ("l.toml", "no toml", "/layers/a/l.toml is not valid TOML"),
        ("launch.toml", "\n[[processes]]\n", "/layers/a/launch.toml:2: a process needs a type"),
        ("build.toml", "unmet = 1", "/layers/a/build.toml:1: unmet must be an array of tables"),
        ("store.toml", "metadata = 1", "/layers/a/store.toml:1: metadata must be a table"),
        ("launch.toml", "#" * (1 << 21), "/layers/a/launch.toml is too large"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_buildpack_and_line(
    workshop: Workshop, name: str, text: str, reason: str
) -> None:
    with pytest.raises(BuildError) as raised:
        built(workshop, lambda call: call.write(name, text))
    assert raised.value.what == "a@1 made something that cannot be used"
    assert reason in raised.value.why


def test_a_process_without_a_type_ends_the_build_as_it_ends_the_references_export(workshop: Workshop) -> None:
    with pytest.raises(ExportError, match="the processes of a@1 cannot be in an image") as raised:
        built(workshop, lambda call: call.write("launch.toml", '[[processes]]\ncommand = ["x"]\n'))
    assert (raised.value.exit_code, raised.value.why) == (
        62,
        "/layers/a/launch.toml:1: a process needs a type",
    )


def test_an_issue_in_one_buildpack_keeps_later_ones_from_running(workshop: Workshop) -> None:
    with pytest.raises(BuildError):
        built(workshop, writes(l_toml="no toml"), lambda call: None)
    assert workshop.steps("build") == ["a"]


def test_names_that_only_look_like_a_layers_file_are_left_alone(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("x.toml", "launch", files={"f": ""})
        call.write(".toml", "no toml")
        call.write("notes.toml.bak", "no toml")
        call.write("directory.toml/file", "no toml")

    built(workshop, build)
    exported = workshop.export(workshop.build())
    assert [row.name for row in exported.layers if row.owner == "a"] == ["x.toml"]


def test_a_link_to_the_machines_files_leads_nowhere(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        layers = call.root / "layers" / "a"
        call.layer("l", "build", files={"env.build/X": "1"})
        for name in ("launch.toml", "build.toml", "other.toml", "l/env.build/TOKEN"):
            (layers / name).symlink_to("/etc/passwd")

    seen: list[str] = []
    built(workshop, build, lambda call: seen.extend(call.env))
    assert "X" in seen
    assert "TOKEN" not in seen


@pytest.mark.parametrize("name", ["launch.toml", "l.toml", "store.toml", "launch.sbom.spdx.json"])
def test_what_is_no_file_is_never_opened(workshop: Workshop, name: str) -> None:
    def build(call: Call) -> None:
        os.mkfifo(call.root / "layers" / "a" / name)

    with pytest.raises(BuildError) as raised:
        built(workshop, build, own='sbom-formats = ["application/spdx+json"]')
    assert "is not a regular file" in str(raised.value)


def test_a_link_in_place_of_the_layers_directory_is_not_followed_outside(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.tree.remove("/layers/b")
        (call.root / "layers" / "b").symlink_to("/etc")

    with pytest.raises(Exception, match="/layers/b") as raised:
        built(workshop, build, lambda call: None)
    assert "/etc" not in str(raised.value)


def test_a_plan_is_written_anew_for_each_buildpack(workshop: Workshop) -> None:
    plans = []

    def build(call: Call) -> None:
        path = call.env["CNB_BP_PLAN_PATH"]
        plans.append(tomllib.loads(call.read(path) or ""))
        call.write(path, "left behind")

    entry = 'provides = [{name = "x"}]\nrequires = [{name = "x", metadata = {v = [1, "a"]}}]'
    a = workshop.buildpack("a", detect=lambda call: call.plan(entry), build=build)
    workshop.order((a, workshop.buildpack("b", build=build)))
    workshop.build()
    assert plans == [{"entries": [{"name": "x", "metadata": {"v": [1, "a"]}}]}, {}]


def test_home_and_temporary_files_last_for_the_whole_build(workshop: Workshop) -> None:
    seen: list[str | None] = []

    def second(call: Call) -> None:
        seen.extend(call.read(path) for path in ("/tmp/x", "/home/cnb/x", "/workspace/x"))

    def first(call: Call) -> None:
        for path in ("/tmp/x", "/home/cnb/x", "/workspace/x"):
            call.write(path, "first")

    built(workshop, first, second)
    assert seen == ["first"] * 3


def test_a_set_aside_layer_takes_no_part_in_anything(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("l", files={"bin/x": "", "env/X": "1"})

    seen: list[str] = []
    built(workshop, build, lambda call: seen.extend([call.env["PATH"], call.env.get("X", "")]))
    assert seen == ["/usr/bin:/bin", ""]


def test_bills_of_materials_of_layers_with_dots_in_their_names_find_their_layer(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("node.js", "launch", files={})
        call.write("node.js.sbom.spdx.json", "bill")
        call.write("nobody.sbom.spdx.json", "bill")

    built(workshop, build, own='sbom-formats = ["application/spdx+json"]')
    assert workshop.names("/layers/sbom/launch/a") == ["node.js"]
    assert workshop.names("/layers/sbom/build") == ["sbom.legacy.json"]


def test_what_a_buildpack_put_in_the_place_of_the_bills_is_gone(workshop: Workshop) -> None:
    built(workshop, lambda call: call.write("/layers/sbom/launch/forged/sbom.cdx.json", "{}"))
    assert workshop.names("/layers/sbom/launch") == ["sbom.legacy.json"]


def test_metadata_without_anything_is_that_of_the_reference(workshop: Workshop) -> None:
    built(workshop, lambda call: None)
    text = workshop.text("/layers/config/metadata.toml")
    assert text == 'processes = []\n\n[[buildpacks]]\n  id = "a"\n  version = "1"\n  api = "0.12"\n'


def test_each_buildpack_is_named_while_it_builds(workshop: Workshop) -> None:
    seen: list[list[str]] = []
    refs = [
        workshop.buildpack(name, build=lambda call: seen.append([*workshop.notes.activities]))
        for name in "ab"
    ]
    workshop.order(tuple(refs))
    workshop.build()
    assert seen == [["a@1"], ["a@1", "b@1"]]


def test_keys_that_no_file_of_the_contract_has_are_named_with_file_and_line(workshop: Workshop) -> None:
    def detect(call: Call) -> None:
        call.plan('[[provides]]\nname = "x"\nversions = 1\n[[requires]]\nname = "x"\n')

    files = {
        "tools.toml": "[types]\nLaunch = true\nlanch = true\n[metadata]\nanything = 1\n",
        "launch.toml": '[[labels]]\nkey = "a"\nvalue = "b"\n[[process]]\ntype = "web"\n',
        "build.toml": "unmett = []\n",
        "store.toml": "\ufeff[metadata]\na = 1\n[meta]\n",
    }
    ref = workshop.buildpack("first", detect=detect, build=writes(**files), own="clear-env = true\ncleer = 1")
    workshop.order((ref,))
    workshop.build()
    assert workshop.notes.said == [
        "/cnb/buildpacks/first/1/buildpack.toml:6: buildpack.cleer is not a key of this file and is ignored",
        "build plan of first@1: /tmp/cnb-build-plan-0.toml:3: provides.versions is not a key of this file "
        "and is ignored",
        "first@1",
        "/layers/first/tools.toml:2: types.Launch is read as launch, which is how this key is spelled",
        "/layers/first/tools.toml:3: types.lanch is not a key of this file and is ignored",
        "/layers/first/store.toml:3: meta is not a key of this file and is ignored",
        "/layers/first/launch.toml:4: process is not a key of this file and is ignored",
        "/layers/first/build.toml:1: unmett is not a key of this file and is ignored",
    ]
