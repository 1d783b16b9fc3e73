"""Building: the interface of bin/build, plans, processes and bills of materials (buildpack.md)."""

from __future__ import annotations

import json
import tomllib

import pytest

from fakes.runner import Call, Program
from fakes.workshop import Workshop
from packhorse.errors import BuildError, BuildpackFailed, PackhorseError

CYCLONE, SPDX = "application/vnd.cyclonedx+json", "application/spdx+json"


def detects(plan: str) -> Program:
    return lambda call: call.plan(plan)


def process(kind: str, command: str = "x", rest: str = "") -> str:
    return f'[[processes]]\ntype = "{kind}"\ncommand = ["{command}"]\n{rest}\n'


def launches(text: str) -> Program:
    return lambda call: call.write("launch.toml", text)


def noted(into: list[object]) -> Program:
    """A bin/build that writes down the names of its plan's entries."""

    def build(call: Call) -> None:
        text = call.read(call.env["CNB_BP_PLAN_PATH"]) or ""
        into.append([entry["name"] for entry in tomllib.loads(text).get("entries", [])])

    return build


def test_B_054_build_runs_for_each_of_the_group_in_order(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("b"), workshop.buildpack("a"), workshop.buildpack("c")))
    workshop.build()
    assert workshop.steps("build") == ["b", "a", "c"]


def test_B_055_a_status_other_than_0_fails_the_build(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", build=lambda call: 100), workshop.buildpack("b")))
    with pytest.raises(BuildpackFailed) as raised:
        workshop.build()
    assert raised.value.exit_code == 51
    assert workshop.steps("build") == ["a"]


def test_B_056_after_the_last_one_the_image_is_exported(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.create()
    assert workshop.notes.phases[-2:] == ["build", "export"]


def test_B_057_B_058_B_059_build_has_layers_platform_and_plan_as_arguments_and_variables(
    workshop: Workshop,
) -> None:
    workshop.order((workshop.buildpack("x/a"),))
    workshop.build()
    step = workshop.runner.commands[-1]
    plan = step.env["CNB_BP_PLAN_PATH"]
    assert step.argv == ("/cnb/buildpacks/x_a/1/bin/build", "/layers/x_a", "/platform", plan)
    assert step.cwd == "/workspace"
    names = ("CNB_LAYERS_DIR", "CNB_PLATFORM_DIR", "CNB_BUILDPACK_DIR")
    assert [step.env[name] for name in names] == ["/layers/x_a", "/platform", "/cnb/buildpacks/x_a/1"]
    assert workshop.names("/layers/x_a") == [], "the directory is there before bin/build"


@pytest.mark.parametrize("api", ["0.7", "0.8", "0.9", "0.10"])
def test_B_057_B_058_B_103_older_buildpacks_have_fewer_variables_and_the_same_arguments(
    workshop: Workshop, api: str
) -> None:
    workshop.order((workshop.buildpack("x/a", api=api),))
    workshop.build()
    step = workshop.runner.commands[-1]
    assert step.argv[1:] == ("/layers/x_a", "/platform", "/tmp/cnb-buildpack-plan.toml")
    there = {"CNB_LAYERS_DIR", "CNB_PLATFORM_DIR", "CNB_BP_PLAN_PATH"} & step.env.keys()
    assert len(there) == (0 if api == "0.7" else 3)
    assert any(name.startswith("CNB_TARGET_") for name in step.env) == (api == "0.10")
    assert step.env["CNB_BUILDPACK_DIR"] == "/cnb/buildpacks/x_a/1"


@pytest.mark.parametrize(("api", "expected"), [("0.12", "production"), ("0.10", None)])
def test_B_060_build_has_the_execution_environment_from_api_0_12_on(
    workshop: Workshop, api: str, expected: str | None
) -> None:
    workshop.order((workshop.buildpack("a", api=api),))
    workshop.build()
    assert workshop.runner.commands[-1].env.get("CNB_EXEC_ENV") == expected


def test_B_062_a_plan_has_what_is_required_of_what_the_buildpack_provides(workshop: Workshop) -> None:
    plans: list[object] = []
    a = detects('provides = [{name = "x"}, {name = "y"}]')
    b = detects('provides = [{name = "z"}]\nrequires = [{name = "x"}, {name = "y"}, {name = "z"}]')
    c = detects('requires = [{name = "x"}]')
    workshop.order(
        (
            workshop.buildpack("a", detect=a, build=noted(plans)),
            workshop.buildpack("b", detect=b, build=noted(plans)),
            workshop.buildpack("c", detect=c, build=noted(plans)),
        )
    )
    workshop.build()
    assert plans == [["x", "x", "y"], ["z"], []]


@pytest.mark.parametrize("name", ["build", "launch", "store"])
def test_B_065_no_layer_has_the_name_of_another_file(workshop: Workshop, name: str) -> None:
    def build(call: Call) -> None:
        call.write(f"{name}.toml", "")
        call.write(f"{name}/file", "")

    workshop.order((workshop.buildpack("a", build=build),))
    with pytest.raises(BuildError, match=f"has a layer named '{name}'"):
        workshop.build()


def test_B_067_a_layer_without_types_is_set_aside(workshop: Workshop) -> None:
    def build(call: Call) -> None:
        call.layer("none", files={"file": "new"})
        call.layer("some", "launch", files={"file": ""})
        call.write("none.ignore/old", "")

    workshop.order((workshop.buildpack("a", build=build),))
    workshop.build()
    assert workshop.names("/layers/a") == ["none.ignore", "none.toml", "some", "some.toml"]
    assert workshop.names("/layers/a/none.ignore") == ["file"]


def test_B_068_build_layers_are_there_for_later_buildpacks(workshop: Workshop) -> None:
    seen = []

    def build(call: Call) -> None:
        seen.append((call.read("/layers/a/l/bin/tool"), call.env["PATH"]))

    a = workshop.buildpack("a", build=lambda call: call.layer("l", "build", files={"bin/tool": "x"}))
    workshop.order((a, workshop.buildpack("b", build=build)))
    workshop.build()
    assert seen == [("x", "/layers/a/l/bin:/usr/bin:/bin")]


def unmet(workshop: Workshop, text: str) -> list[object]:
    """Two buildpacks provide x and y; the plan of the second after the first wrote this build.toml."""
    plans: list[object] = []
    both = detects('provides = [{name = "x"}, {name = "y"}]')
    asks = detects('requires = [{name = "x"}, {name = "y"}]')
    workshop.order(
        (
            workshop.buildpack("a", detect=both, build=lambda call: call.write("build.toml", text)),
            workshop.buildpack("b", detect=both, build=noted(plans)),
            workshop.buildpack("c", detect=asks),
        )
    )
    workshop.build()
    return plans


def test_B_070_and_B_073_what_is_not_called_unmet_is_met_and_in_no_later_plan(workshop: Workshop) -> None:
    assert unmet(workshop, "") == [[]]


def test_B_072_what_is_called_unmet_goes_to_the_next_who_provides_it(workshop: Workshop) -> None:
    assert unmet(workshop, '[[unmet]]\nname = "y"\n') == [["y"]]


def test_B_074_only_entries_of_the_own_plan_can_be_unmet(workshop: Workshop) -> None:
    with pytest.raises(BuildError, match="a@1 calls unmet what it was not asked for: z") as raised:
        unmet(workshop, '[[unmet]]\nname = "z"\n')
    assert "x, y" in raised.value.why


@pytest.mark.parametrize("ending", ["cdx.json", "xml.json", "json"])
def test_B_075_and_B_078_a_bill_of_materials_has_a_format_that_is_declared(
    workshop: Workshop, ending: str
) -> None:
    own = f'sbom-formats = ["{SPDX}"]'
    writes = lambda call: call.write(f"launch.sbom.{ending}", "{}")  # noqa: E731
    workshop.order((workshop.buildpack("a", build=writes, own=own),))
    with pytest.raises(BuildError, match=rf"launch\.sbom\.{ending} and does not declare that format"):
        workshop.build()


def test_B_076_and_B_077_bills_of_materials_are_those_of_the_app_and_those_of_the_build(
    workshop: Workshop,
) -> None:
    def build(call: Call) -> None:
        call.layer("run", "launch", files={})
        call.layer("compile", "build", "cache", files={})
        for name in ("run", "compile", "launch", "build"):
            call.write(f"{name}.sbom.cdx.json", name)
            call.write(f"{name}.sbom.spdx.json", name)

    own = f'sbom-formats = ["{CYCLONE};version=1.4", "{SPDX}"]'
    workshop.order((workshop.buildpack("x/a", build=build, own=own),))
    workshop.build()
    root = "/layers/sbom"
    assert workshop.names(f"{root}/launch/x_a") == ["run", "sbom.cdx.json", "sbom.spdx.json"]
    assert workshop.names(f"{root}/build/x_a") == ["compile", "sbom.cdx.json", "sbom.spdx.json"]
    assert workshop.text(f"{root}/launch/x_a/sbom.cdx.json") == "launch"
    assert workshop.text(f"{root}/launch/x_a/run/sbom.spdx.json") == "run"
    assert workshop.text(f"{root}/build/x_a/compile/sbom.cdx.json") == "compile"
    assert workshop.text(f"{root}/cache/x_a/compile/sbom.cdx.json") == "compile"


def test_B_092_slices_of_earlier_buildpacks_come_first(workshop: Workshop) -> None:
    workshop.order(
        (
            workshop.buildpack("b", build=launches('slices = [{paths = ["1"]}, {paths = ["2"]}]')),
            workshop.buildpack("a", build=launches('slices = [{paths = ["3", "4"]}]')),
        )
    )
    assert workshop.build().slices == (("1",), ("2",), ("3", "4"))


def test_B_094_a_later_buildpack_redefines_a_process_type(workshop: Workshop) -> None:
    workshop.order(
        (
            workshop.buildpack("a", build=launches(process("web", "old") + process("task"))),
            workshop.buildpack("b", build=launches(process("web", "new"))),
        )
    )
    built = workshop.build()
    assert [(one.type, one.command, one.buildpack_id) for one in built.processes] == [
        ("task", ("x",), "a"),
        ("web", ("new",), "b"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        process("web") + process("web"),
        process("a/b"),
        '[[processes]]\ntype = "web"\ncommand = "x"\n',
        process("web", rest="direct = true"),
        process("web", rest="default = true") + process("task", rest="default = true"),
    ],
    ids=["B-134 twice", "B-135 slash", "B-136 text", "B-137 direct", "B-138 two defaults"],
)
def test_B_134_B_135_B_136_B_137_B_138_processes_that_are_against_the_rules_fail_the_build(
    workshop: Workshop, text: str
) -> None:
    workshop.order((workshop.buildpack("a", build=launches(text)),))
    with pytest.raises(PackhorseError, match=r"launch\.toml"):
        workshop.build()


@pytest.mark.parametrize("api", ["0.7", "0.8"])
def test_B_136_B_137_before_api_0_9_a_command_is_a_text_and_bash_runs_it_unless_it_is_direct(
    workshop: Workshop, api: str
) -> None:
    text = """
    [[processes]]
    type = "web"
    command = "echo $PORT && serve"
    [[processes]]
    type = "direct"
    command = "serve"
    args = ["$PORT"]
    direct = true
    [[processes]]
    type = "shell"
    command = "serve"
    direct = false
    """
    workshop.order((workshop.buildpack("a", build=launches(text), api=api),))
    exported = workshop.create()
    written = tomllib.loads(workshop.text("/layers/config/metadata.toml") or "")
    expected = [
        {"type": "direct", "command": ["serve"], "args": ["$PORT"], "direct": True},
        {"type": "shell", "command": ["serve"], "direct": False},
        {"type": "web", "command": ["echo $PORT && serve"], "direct": False},
    ]
    assert written["processes"] == [{**process, "buildpack-id": "a"} for process in expected]
    assert written["buildpacks"] == [{"id": "a", "version": "1", "api": api}]
    label = json.loads(exported.image.config.labels["io.buildpacks.build.metadata"])
    assert label["processes"] == [{"args": None, **process, "buildpackID": "a"} for process in expected]


def test_B_136_B_137_buildpacks_of_different_apis_may_be_in_one_group(workshop: Workshop) -> None:
    old, middle = '[[processes]]\ntype = "old"\ncommand = "x"\n', process("middle")
    workshop.order(
        (
            workshop.buildpack("a", build=launches(old), api="0.7"),
            workshop.buildpack("b", build=launches(middle), api="0.9"),
            workshop.buildpack("c", build=launches(process("new")), api="0.12"),
        )
    )
    built = workshop.build()
    assert [(one.type, one.direct) for one in built.processes] == [
        ("middle", True),
        ("new", True),
        ("old", False),
    ]
    assert [member.api for member in built.group] == ["0.7", "0.9", "0.12"]


@pytest.mark.parametrize(
    ("line", "issue"),
    [
        ('command = ["x"]', "launch.toml:3: processes.command must be a string"),
        ("", "launch.toml:1: process 'web' has no command"),
        ('command = ""\ndirect = true', "launch.toml:1: process 'web' has no command"),
        ('command = "x"\ndirect = 1', "launch.toml:4: processes.direct must be true or false"),
    ],
    ids=["list", "none", "nothing to execute", "direct"],
)
def test_B_136_B_137_before_api_0_9_a_command_of_another_form_fails_the_build(
    workshop: Workshop, line: str, issue: str
) -> None:
    text = f'[[processes]]\ntype = "web"\n{line}\n'
    workshop.order((workshop.buildpack("a", build=launches(text), api="0.8"),))
    with pytest.raises(BuildError) as raised:
        workshop.build()
    assert issue in raised.value.why


@pytest.mark.parametrize(("api", "expected"), [("0.7", ""), ("0.8", "/layers/x")])
def test_B_140_before_api_0_8_the_directory_of_a_process_is_ignored_and_that_is_said(
    workshop: Workshop, api: str, expected: str
) -> None:
    text = '[[processes]]\ntype = "web"\ncommand = "x"\nworking-dir = "/layers/x"\n'
    workshop.order((workshop.buildpack("a", build=launches(text), api=api),))
    (web,) = workshop.build().processes
    assert web.working_dir == expected
    said = [line for line in workshop.notes.said if "working-dir" in line]
    where = "/layers/a/launch.toml:4: working-dir of process 'web' is ignored"
    assert [line.startswith(where) for line in said] == ([] if expected else [True])


def test_B_139_the_last_default_counts_and_a_redefinition_without_one_takes_it_away(
    workshop: Workshop,
) -> None:
    a = workshop.buildpack("a", build=launches(process("web", rest="default = true")))
    b = workshop.buildpack("b", build=launches(process("task", rest="default = true")))
    c = workshop.buildpack("c", build=launches(process("task")))
    for group, expected in (((a, b), "task"), ((b, a), "web"), ((a, b, c), ""), ((a, c), "web")):
        workshop.order(group)
        assert workshop.build().default_process == expected
    workshop.order((a, b, c))
    workshop.notes.said.clear()
    workshop.build()
    assert any("c redefines the default 'task'" in line for line in workshop.notes.said)


def test_B_140_and_B_141_a_process_has_its_directory_and_execution_environments(workshop: Workshop) -> None:
    text = process("web", rest='working-dir = "/workspace/x"\nexec-env = ["test"]')
    workshop.order((workshop.buildpack("a", build=launches(text)),))
    (web,) = workshop.build().processes
    assert (web.working_dir, web.exec_env) == ("/workspace/x", ("test",))
    written = tomllib.loads(workshop.text("/layers/config/metadata.toml") or "")
    assert written["processes"][0]["working-dir"] == "/workspace/x"
    assert written["processes"][0]["exec-env"] == ["test"]


def test_P_075_the_run_images_target_is_told_to_builds(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.build()
    assert workshop.runner.commands[-1].env["CNB_TARGET_DISTRO_VERSION"] == "24.04"


def test_P_076_P_077_P_078_P_181_metadata_toml_has_buildpacks_processes_slices_and_the_default(
    workshop: Workshop,
) -> None:
    text = process("web", rest='args = ["1"]\ndefault = true') + '[[slices]]\npaths = ["*.js"]\n'
    workshop.order((workshop.buildpack("a", build=launches(text), own='homepage = "https://a.test"'),))
    workshop.build()
    assert tomllib.loads(workshop.text("/layers/config/metadata.toml") or "") == {
        "buildpack-default-process-type": "web",
        "buildpacks": [{"id": "a", "version": "1", "api": "0.12", "homepage": "https://a.test"}],
        "processes": [
            {"type": "web", "command": ["x"], "args": ["1"], "direct": True, "buildpack-id": "a"},
        ],
        "slices": [{"paths": ["*.js"]}],
    }


def test_P_077_a_command_with_any_character_can_be_read_again(workshop: Workshop) -> None:
    command = 'a && b < c > d "\\ \x01\t\n\x1f\x7f ü \u2028 \U0001f600'
    quoted = json.dumps(command, ensure_ascii=False).replace("\x7f", r"\u007f")
    text = f'[[processes]]\ntype = "web"\ncommand = [{quoted}]\n'
    workshop.order((workshop.buildpack("a", build=launches(text)),))
    workshop.build()
    written = workshop.text("/layers/config/metadata.toml") or ""
    assert tomllib.loads(written)["processes"][0]["command"] == [command]
    assert r"a \u0026\u0026 b \u003c c \u003e d" in written


def test_P_090_and_P_108_the_build_leaves_a_bill_of_materials_of_the_old_form_too(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.build()
    assert workshop.text("/layers/sbom/launch/sbom.legacy.json") == "null\n"
    assert workshop.text("/layers/sbom/build/sbom.legacy.json") == "null\n"


def test_P_090_what_buildpacks_write_in_the_old_form_is_in_it(workshop: Workshop) -> None:
    def lists(call: Call) -> None:
        call.write("launch.toml", '[[bom]]\nname = "a & b"\n[bom.metadata]\nz = 1\na = {}\n')
        call.write("build.toml", '[[bom]]\nname = "c"\n')

    workshop.order((workshop.buildpack("x/y", build=lists), workshop.buildpack("z", build=lists)))
    workshop.build()
    entries = (
        r'{"name":"a \u0026 b","metadata":{"a":{},"z":1},"buildpack":{"id":"x/y","version":"1"}}',
        r'{"name":"a \u0026 b","metadata":{"a":{},"z":1},"buildpack":{"id":"z","version":"1"}}',
    )
    assert workshop.text("/layers/sbom/launch/sbom.legacy.json") == f"[{','.join(entries)}]\n"
    built = workshop.text("/layers/sbom/build/sbom.legacy.json") or ""
    assert built.startswith('[{"name":"c","metadata":null,"buildpack":{"id":"x/y","version":"1"}},')


def test_P_090_an_entry_in_the_old_form_has_its_version_in_its_metadata(workshop: Workshop) -> None:
    text = '[[bom]]\nname = "a"\nversion = "1"\n'
    workshop.order((workshop.buildpack("a", build=launches(text)),))
    with pytest.raises(BuildError, match=r"bom\.version is no key"):
        workshop.build()
