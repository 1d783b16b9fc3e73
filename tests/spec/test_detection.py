"""Detection: the interface of bin/detect, the choice of a group, and the plan (buildpack.md)."""

from __future__ import annotations

import pytest

from fakes.runner import Call, Program
from fakes.workshop import TARGET, Workshop, optional
from packhorse.base.dataclass import replace
from packhorse.errors import BuildpackApiError, DetectErrored, DetectFailed, InputError, NotFoundError
from packhorse.oci.mutate import edit_config
from packhorse.spec.api import PlatformApi
from packhorse.spec.buildpack_toml import Ref


def answers(status: int, plan: str = "") -> Program:
    def detect(call: Call) -> int:
        if plan:
            call.plan(plan)
        return status

    return detect


def provides(name: str) -> str:
    return f'[[provides]]\nname = "{name}"\n'


def requires(name: str) -> str:
    return f'[[requires]]\nname = "{name}"\n'


def both(name: str) -> str:
    return provides(name) + requires(name)


def detected(workshop: Workshop) -> list[str]:
    return [member.ref.id for member in workshop.detect().group]


def test_B_004_a_buildpack_of_an_unsupported_api_is_an_error(workshop: Workshop) -> None:
    old = workshop.buildpack("old", api="0.6")
    workshop.order((old,))
    with pytest.raises(BuildpackApiError) as raised:
        workshop.detect()
    assert raised.value.exit_code == 12


def test_B_004_so_is_one_inside_a_composite(workshop: Workshop) -> None:
    workshop.buildpack("old", api="0.13")
    composite = workshop.buildpack("all", rest='[[order]]\ngroup = [{id = "old", version = "1"}]')
    workshop.order((composite,))
    with pytest.raises(BuildpackApiError):
        workshop.detect()


def test_B_005_a_composite_stands_for_its_components(workshop: Workshop) -> None:
    workshop.buildpack("a")
    workshop.buildpack("b")
    group = 'group = [{id = "a", version = "1"}, {id = "b", version = "1"}]'
    workshop.order((workshop.buildpack("all", rest=f"[[order]]\n{group}"),))
    assert detected(workshop) == ["a", "b"]


def test_B_006_executables_of_components_run_and_none_of_a_composite(workshop: Workshop) -> None:
    workshop.buildpack("a")
    workshop.order((workshop.buildpack("all", rest='[[order]]\ngroup = [{id = "a", version = "1"}]'),))
    workshop.create()
    assert workshop.steps("detect") == ["a"]
    assert workshop.steps("build") == ["a"]


def test_B_011_detect_is_called_by_its_absolute_path_in_the_app_directory(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("x/a"),))
    workshop.detect()
    (step,) = workshop.runner.commands
    assert step.argv[0] == "/cnb/buildpacks/x_a/1/bin/detect"
    assert step.cwd == "/workspace"


def test_B_012_detect_has_the_platform_directory_and_the_plan_as_arguments(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.detect()
    (step,) = workshop.runner.commands
    assert step.argv[1:] == ("/platform", step.env["CNB_BUILD_PLAN_PATH"])


def test_B_013_detect_has_platform_and_plan_in_variables(workshop: Workshop) -> None:
    seen = []

    def detect(call: Call) -> None:
        seen.append(call.read(call.env["CNB_BUILD_PLAN_PATH"]))

    workshop.order((workshop.buildpack("a", detect=detect),))
    workshop.detect()
    assert workshop.runner.commands[0].env["CNB_PLATFORM_DIR"] == "/platform"
    assert seen == [""], "the plan is an empty file to begin with"


@pytest.mark.parametrize("api", ["0.7", "0.8"])
def test_B_012_B_013_before_api_0_8_detect_has_the_paths_as_arguments_only(
    workshop: Workshop, api: str
) -> None:
    workshop.order((workshop.buildpack("a", detect=lambda call: call.plan(both("x")), api=api),))
    assert [entry.name for entry in workshop.detect().plan] == ["x"]
    (step,) = workshop.runner.commands
    there = {"CNB_PLATFORM_DIR", "CNB_BUILD_PLAN_PATH"} & step.env.keys()
    assert bool(there) == (api != "0.7")
    assert step.env["CNB_BUILDPACK_DIR"] == "/cnb/buildpacks/a/1"
    assert not any(name.startswith("CNB_TARGET_") for name in step.env)


def test_B_014_detect_has_the_buildpacks_directory_in_a_variable(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("x/a", "1.2"),))
    workshop.detect()
    assert workshop.runner.commands[0].env["CNB_BUILDPACK_DIR"] == "/cnb/buildpacks/x_a/1.2"


@pytest.mark.parametrize(("api", "expected"), [("0.12", "test"), ("0.11", None)])
def test_B_015_detect_has_the_execution_environment_from_api_0_12_on(
    workshop: Workshop, api: str, expected: str | None
) -> None:
    workshop.set(exec_env="test")
    workshop.order((workshop.buildpack("a", api=api),))
    workshop.detect()
    assert workshop.runner.commands[0].env.get("CNB_EXEC_ENV") == expected


@pytest.mark.parametrize(
    ("status", "error"), [(0, None), (100, DetectFailed), (1, DetectErrored), (101, DetectErrored)]
)
def test_B_016_a_status_of_0_passes_100_fails_and_another_is_an_error(
    workshop: Workshop, status: int, error: type[Exception] | None
) -> None:
    workshop.order((workshop.buildpack("a", detect=answers(status)),))
    if error is None:
        assert detected(workshop) == ["a"]
    else:
        with pytest.raises(DetectFailed) as raised:
            workshop.detect()
        assert type(raised.value) is error


def test_B_018_each_of_a_group_is_asked_and_an_id_that_was_is_not_again(workshop: Workshop) -> None:
    a, a2, b = workshop.buildpack("a"), workshop.buildpack("a", "2"), workshop.buildpack("b")
    workshop.set(parallel=1)
    workshop.order((a, b, a2))
    assert [str(member.ref) for member in workshop.detect().group] == ["a@1", "b@1"]
    assert workshop.steps("detect") == ["a", "b"]


def test_B_020_a_required_buildpack_that_does_not_pass_ends_its_group(workshop: Workshop) -> None:
    no = workshop.buildpack("no", detect=answers(100))
    yes = workshop.buildpack("yes")
    workshop.order((yes, no), (yes,))
    assert detected(workshop) == ["yes"]
    workshop.order((no, yes))
    with pytest.raises(DetectFailed):
        workshop.detect()


@pytest.mark.parametrize("status", [100, 1])
def test_B_021_an_optional_buildpack_that_does_not_pass_is_passed_over(
    workshop: Workshop, status: int
) -> None:
    no = workshop.buildpack("no", detect=answers(status))
    workshop.order((optional(no), workshop.buildpack("yes")))
    assert detected(workshop) == ["yes"]


def test_B_022_a_group_in_which_nothing_passes_gives_way_to_the_next(workshop: Workshop) -> None:
    no = optional(workshop.buildpack("no", detect=answers(100)))
    workshop.order((no,), (no, workshop.buildpack("yes")))
    assert detected(workshop) == ["yes"]
    workshop.order((no,))
    with pytest.raises(DetectFailed):
        workshop.detect()


def test_B_023_the_first_group_that_holds_is_taken(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),), (workshop.buildpack("b"),))
    assert detected(workshop) == ["a"]
    assert workshop.steps("detect") == ["a"]


def test_B_024_the_group_has_those_that_passed_in_their_order(workshop: Workshop) -> None:
    no = optional(workshop.buildpack("no", detect=answers(100)))
    workshop.order((workshop.buildpack("c"), no, workshop.buildpack("b"), workshop.buildpack("a")))
    assert detected(workshop) == ["c", "b", "a"]


def test_B_025_detect_has_the_environment_of_buildpacks(workshop: Workshop) -> None:
    workshop.tree.write("/platform/env/BP_X", b"user")
    workshop.order((workshop.buildpack("a"),))
    workshop.detect()
    env = workshop.runner.commands[0].env
    assert (env["BP_X"], env["HOME"], env["CNB_TARGET_OS"]) == ("user", "/home/cnb", "linux")


def test_B_027_alternatives_of_a_plan_are_tried_from_left_to_right(workshop: Workshop) -> None:
    # Of four combinations the second holds: a's first alternative with b's second.
    a = workshop.buildpack("a", detect=answers(0, f"{provides('x')}[[or]]\n"))
    b = workshop.buildpack("b", detect=answers(0, f"{requires('y')}[[or]]\n[[or.requires]]\nname = 'x'\n"))
    workshop.order((a, b))
    (entry,) = workshop.detect().plan
    assert entry.name == "x"


def test_B_028_a_required_buildpack_must_provide_only_what_is_required(workshop: Workshop) -> None:
    a = workshop.buildpack("a", detect=answers(0, provides("x")))
    early = workshop.buildpack("early", detect=answers(0, requires("x")))
    workshop.order((a,), (optional(early), a))
    with pytest.raises(DetectFailed, match="a@1 provides x, which no buildpack after it uses"):
        workshop.detect()


def test_B_029_a_required_buildpack_must_require_only_what_is_provided(workshop: Workshop) -> None:
    a = workshop.buildpack("a", detect=answers(0, requires("x")))
    late = workshop.buildpack("late", detect=answers(0, both("x")))
    workshop.order((a, late))
    with pytest.raises(DetectFailed, match="a@1 requires x"):
        workshop.detect()


def test_B_030_an_optional_buildpack_whose_provision_is_unused_is_left_out(workshop: Workshop) -> None:
    plan = provides("x") + both("y")
    a = optional(workshop.buildpack("a", detect=answers(0, plan)))
    workshop.order((a, workshop.buildpack("b")))
    found = workshop.detect()
    assert ([member.ref.id for member in found.group], found.plan) == (["b"], ())


def test_B_032_an_optional_buildpack_whose_requirement_is_unmet_is_left_out(workshop: Workshop) -> None:
    plan = requires("x") + both("y")
    a = optional(workshop.buildpack("a", detect=answers(0, plan)))
    workshop.order((a, workshop.buildpack("b")))
    found = workshop.detect()
    assert ([member.ref.id for member in found.group], found.plan) == (["b"], ())


def test_B_034_a_required_buildpack_for_another_target_ends_its_group(workshop: Workshop) -> None:
    other = workshop.buildpack("other", rest='[[targets]]\nos = "linux"\narch = "s390x"')
    here = workshop.buildpack("here", rest='[[targets]]\nos = "linux"\narch = "amd64"')
    workshop.order((other, here), (here,))
    assert detected(workshop) == ["here"]
    assert workshop.steps("detect") == ["here"]


def test_B_034_an_optional_buildpack_for_another_target_runs(workshop: Workshop) -> None:
    other = workshop.buildpack("other", rest='[[targets]]\nos = "linux"\narch = "s390x"')
    here = workshop.buildpack("here")
    workshop.order((optional(other), here))
    assert detected(workshop) == ["other", "here"]
    workshop.order((here, optional(other), workshop.buildpack("no", detect=answers(100))), (other,), (here,))
    assert detected(workshop) == ["here"]


def test_B_035_an_order_of_composites_becomes_groups_of_components(workshop: Workshop) -> None:
    for name in "abc":
        workshop.buildpack(name)
    inner = '[[order]]\ngroup = [{id = "b", version = "1"}, {id = "c", version = "1"}]'
    workshop.buildpack("inner", rest=inner)
    outer = '[[order]]\ngroup = [{id = "a", version = "1"}, {id = "inner", version = "1"}]'
    workshop.order((workshop.buildpack("outer", rest=outer),))
    assert detected(workshop) == ["a", "b", "c"]


def test_B_035_a_composite_that_contains_itself_is_an_error(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", rest='[[order]]\ngroup = [{id = "a", version = "1"}]'),))
    with pytest.raises(InputError, match="the composite buildpack a@1 contains itself"):
        workshop.detect()


def test_B_005_a_component_that_is_not_there_is_named_with_its_composite(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("all", rest='[[order]]\ngroup = [{id = "no", version = "1"}]'),))
    with pytest.raises(NotFoundError, match="has no buildpack no@1") as raised:
        workshop.detect()
    assert raised.value.why.startswith("the order of all names it\n")


def test_B_038_what_follows_a_composite_is_tried_with_each_of_its_groups(workshop: Workshop) -> None:
    workshop.buildpack("no", detect=answers(100))
    workshop.buildpack("yes")
    order = "".join(f'[[order]]\ngroup = [{{id = "{name}", version = "1"}}]\n' for name in ("no", "yes"))
    workshop.order((workshop.buildpack("all", rest=order), workshop.buildpack("last")))
    assert detected(workshop) == ["yes", "last"]


def test_B_039_a_group_is_also_tried_without_what_is_optional(workshop: Workshop) -> None:
    workshop.buildpack("no", detect=answers(100))
    composite = workshop.buildpack("all", rest='[[order]]\ngroup = [{id = "no", version = "1"}]')
    workshop.order((optional(composite), workshop.buildpack("last")))
    assert detected(workshop) == ["last"]


def test_B_158_a_requirement_has_no_version_key(workshop: Workshop) -> None:
    plan = both("x") + 'version = "1"\n'
    workshop.order((workshop.buildpack("a", detect=answers(0, plan)),))
    with pytest.raises(DetectErrored, match=r"requires\.version is no key"):
        workshop.detect()


def system(workshop: Workshop, text: str) -> None:
    workshop.tree.write("/cnb/system.toml", text.encode())


def entry(where: str, identifier: str, more: str = "") -> str:
    return f'[[system.{where}.buildpacks]]\nid = "{identifier}"\nversion = "1"\n{more}\n'


def test_P_034_and_P_036_system_buildpacks_stand_around_every_group(workshop: Workshop) -> None:
    fails, a, b = (
        workshop.buildpack(name, detect=answers(name == "fails" and 100)) for name in ("fails", "a", "b")
    )
    workshop.buildpack("first")
    workshop.buildpack("last")
    system(workshop, entry("pre", "first") + entry("post", "last"))
    workshop.order((fails,), (a, b))
    assert detected(workshop) == ["first", "a", "b", "last"]


def test_P_035_a_system_buildpack_that_the_group_has_already_is_not_added(workshop: Workshop) -> None:
    a, b = workshop.buildpack("a"), workshop.buildpack("b")
    system(workshop, entry("pre", "b") + entry("pre", "a") + entry("post", "a") + entry("post", "c"))
    workshop.buildpack("c")
    workshop.order((a, b))
    assert detected(workshop) == ["a", "b", "c"]


def test_P_036_P_190_an_optional_system_buildpack_may_fail(workshop: Workshop) -> None:
    workshop.buildpack("c", detect=answers(100))
    system(workshop, entry("post", "c", "optional = true"))
    workshop.order((workshop.buildpack("a"),))
    assert detected(workshop) == ["a"]
    system(workshop, entry("post", "c"))
    with pytest.raises(DetectFailed):
        workshop.detect()


def test_P_034_before_platform_api_0_15_there_are_none(workshop: Workshop) -> None:
    system(workshop, entry("pre", "nowhere"))
    workshop.order((workshop.buildpack("a"),))
    workshop.set(platform_api=PlatformApi(0, 14))
    assert detected(workshop) == ["a"]


def test_P_034_P_190_a_system_buildpack_has_an_id_and_a_version(workshop: Workshop) -> None:
    system(workshop, '[[system.pre.buildpacks]]\nid = "a"\n')
    workshop.order((workshop.buildpack("a"),))
    with pytest.raises(InputError) as raised:
        workshop.detect()
    assert raised.value.issues == ("/cnb/system.toml:1: system.pre.buildpacks.version is missing",)


def test_P_037_P_038_P_180_detection_gives_one_group_and_its_plan(workshop: Workshop) -> None:
    a = workshop.buildpack("a", detect=answers(0, provides("x")), own='homepage = "https://a.test"')
    b = workshop.buildpack("b", api="0.10", detect=answers(0, requires("x") + "metadata = {v = 1}\n"))
    workshop.order((a, b))
    found = workshop.detect()
    assert [(member.ref.id, member.api, member.homepage) for member in found.group] == [
        ("a", "0.12", "https://a.test"),
        ("b", "0.10", ""),
    ]
    (entry,) = found.plan
    assert (entry.name, entry.providers) == ("x", (Ref("a", "1"),))
    assert [require.metadata for require in entry.requires] == [{"v": 1}]


def test_P_039_the_run_images_target_is_told_to_buildpacks(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    assert workshop.analyze().target == TARGET
    workshop.detect()
    env = workshop.runner.commands[0].env
    assert (env["CNB_TARGET_DISTRO_NAME"], env["CNB_TARGET_DISTRO_VERSION"]) == ("ubuntu", "24.04")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'PRETTY_NAME="x=y"\nID=debian\nVERSION_ID="12"\n', ("debian", "12")),
        (b"ID=arch\n", ("arch", None)),
        (b"NAME=x\n", (None, None)),
        (None, (None, None)),
    ],
    ids=["both", "no version", "neither", "no file"],
)
def test_P_039_and_P_179_the_builders_os_release_tells_what_the_run_image_does_not(
    workshop: Workshop, text: bytes | None, expected: tuple[str | None, str | None]
) -> None:
    config = edit_config(workshop.run_image.config, labels={})
    workshop.run_image = replace(workshop.run_image, config=config)
    if text is not None:
        workshop.tree.write("/etc/os-release", text)
    targets = '[[targets]]\n[[targets.distros]]\nname = "debian"\n'
    workshop.order((workshop.buildpack("a", rest=targets),), (workshop.buildpack("b"),))
    assert detected(workshop) == (["a"] if expected[0] == "debian" else ["b"])
    env = workshop.runner.commands[-1].env
    names = ("CNB_TARGET_DISTRO_NAME", "CNB_TARGET_DISTRO_VERSION")
    assert tuple(env.get(name) for name in names) == expected


def test_P_040_a_buildpack_for_other_execution_environments_is_passed_over(workshop: Workshop) -> None:
    other = workshop.buildpack("other", own='exec-env = ["test"]')
    everywhere = workshop.buildpack("everywhere", own='exec-env = ["*"]')
    workshop.order((other, everywhere, workshop.buildpack("old", api="0.11", own='exec-env = ["test"]')))
    assert detected(workshop) == ["everywhere", "old"]
    assert "other" not in workshop.steps("detect")


def test_P_041_a_group_all_of_which_is_passed_over_gives_way_to_the_next(workshop: Workshop) -> None:
    other = workshop.buildpack("other", own='exec-env = ["test"]')
    workshop.order((other,), (workshop.buildpack("a"),))
    assert detected(workshop) == ["a"]
    workshop.order((other,))
    with pytest.raises(DetectFailed, match="no buildpack for this execution environment"):
        workshop.detect()
