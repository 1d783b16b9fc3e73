"""How detection goes about it: once each, side by side, apart from each other; and what a failure says."""

from __future__ import annotations

import pytest

from fakes.runner import Call, Program
from fakes.workshop import Workshop, optional
from packhorse.errors import DetectErrored, DetectFailed, InputError, NotFoundError
from packhorse.spec.buildpack_toml import Ref


def says(text: str, status: int = 100) -> Program:
    def detect(call: Call) -> int:
        call.say(text)
        return status

    return detect


def test_an_error_in_three_parts_is_told_whole_and_where_to_see_more(workshop: Workshop) -> None:
    text = "Traceback\n  line\nerror: it has a defect\n  main.py line 3\n  tell its author\n"
    workshop.order((workshop.buildpack("a", detect=says(text, 52)),))
    with pytest.raises(DetectErrored) as raised:
        workshop.detect()
    told = "it has a defect; main.py line 3; tell its author"
    assert raised.value.why == f"error: a@1 (exit status 52): {told}"
    assert "packhorse -v build" in raised.value.fix


def test_each_is_asked_once_though_many_groups_have_it(workshop: Workshop) -> None:
    common = workshop.buildpack("common")
    no = workshop.buildpack("no", detect=lambda call: 100)
    maybe = workshop.buildpack("maybe", detect=lambda call: 100)
    workshop.order((common, no), (common, optional(maybe), no), (optional(maybe), common))
    assert [member.ref.id for member in workshop.detect().group] == ["common"]
    assert sorted(workshop.steps("detect")) == ["common", "maybe", "no"]


def test_as_many_are_asked_at_once_as_is_said(workshop: Workshop) -> None:
    workshop.set(parallel=3)
    workshop.order(tuple(workshop.buildpack(name) for name in "abcd"))
    workshop.detect()
    assert workshop.runner.at_once == [3]


def test_what_detection_writes_is_not_seen_by_the_build(workshop: Workshop) -> None:
    seen: list[object] = []

    def detect(call: Call) -> None:
        for path in ("/workspace/mark", "/tmp/mark"):
            call.write(path, "written")

    def build(call: Call) -> None:
        seen.append([call.read(path) for path in ("/workspace/mark", "/tmp/mark")])

    workshop.order(tuple(workshop.buildpack(name, detect=detect, build=build) for name in "ab"))
    workshop.build()
    assert seen == [[None, None]] * 2
    assert workshop.names("/tmp") == ["cnb-buildpack-plan.toml"]


def test_what_lies_where_a_plan_goes_is_replaced(workshop: Workshop) -> None:
    def plants(call: Call) -> int:
        call.write("/tmp/cnb-build-plan-1.toml/in/the/way")
        return 100

    def passes(call: Call) -> None:
        call.plan('[[provides]]\nname = "x"\n[[requires]]\nname = "x"\n')

    first, second = workshop.buildpack("a", detect=plants), workshop.buildpack("b", detect=passes)
    workshop.order((first,), (second,))
    assert [entry.name for entry in workshop.detect().plan] == ["x"]


def test_who_was_there_when_a_limit_was_met_is_asked_again_alone(workshop: Workshop) -> None:
    asked: list[str] = []

    def greedy(call: Call) -> int:
        asked.append("greedy")
        call.exceeded = "it met the limit memory"
        return 137

    def harmless(call: Call) -> int:
        asked.append("harmless")
        call.exceeded = "it met the limit memory" if asked.count("harmless") == 1 else ""
        return 137 if call.exceeded else 0

    workshop.order(
        (
            optional(workshop.buildpack("a", detect=greedy)),
            workshop.buildpack("b", detect=harmless),
        )
    )
    assert [member.ref.id for member in workshop.detect().group] == ["b"]
    assert asked == ["greedy", "harmless", "greedy", "harmless"]


def test_a_source_that_was_shown_wrongly_is_asked_about_again(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"),))
    workshop.runner.confirmations = [False]
    workshop.detect()
    assert workshop.steps("detect") == ["a", "a"]


def test_plans_of_detections_side_by_side_have_names_of_their_own(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a"), workshop.buildpack("b")))
    workshop.detect()
    assert len({step.env["CNB_BUILD_PLAN_PATH"] for step in workshop.runner.commands}) == 2


def test_a_failure_says_for_each_buildpack_why(workshop: Workshop) -> None:
    workshop.order(
        (
            optional(workshop.buildpack("quiet", detect=lambda call: 100)),
            workshop.buildpack("talker", detect=says("looked for x\n\nno x here")),
        ),
        (workshop.buildpack("broken", detect=says("Traceback", 2)),),
        (workshop.buildpack("elsewhere", rest='[[targets]]\nos = "windows"'),),
        (workshop.buildpack("alone", detect=lambda call: call.plan('[[provides]]\nname = "x"')),),
    )
    with pytest.raises(DetectErrored) as raised:
        workshop.detect()
    assert raised.value.exit_code == 21
    assert raised.value.why.splitlines() == [
        "fail: quiet@1",
        "fail: talker@1: no x here",
        "error: broken@1 (exit status 2): Traceback",
        "error: elsewhere@1: it runs on windows, the base images are linux/amd64 ubuntu 24.04",
        "pass: alone@1",
        "plan: alone@1 provides x, which no buildpack after it uses",
    ]
    assert "--buildpack" in raised.value.fix
    assert "talker@1: looked for x\n\nno x here" in workshop.notes.details


def test_an_error_in_an_optional_composite_counts(workshop: Workshop) -> None:
    """Not so in the reference, which tries the group again without the composite (docs/decisions/0011)."""
    workshop.buildpack("broken", detect=says("", 3))
    composite = workshop.buildpack("all", rest='[[order]]\ngroup = [{id = "broken", version = "1"}]')
    workshop.order((optional(composite), workshop.buildpack("no", detect=says(""))))
    with pytest.raises(DetectErrored) as raised:
        workshop.detect()
    assert raised.value.why.splitlines() == ["error: broken@1 (exit status 3)", "fail: no@1"]


def test_of_a_flood_the_end_is_kept(workshop: Workshop) -> None:
    def detect(call: Call) -> int:
        for number in range(40):
            call.print(f"{number:_<65535}\n".encode())
        call.say("x" * 10_000)
        return 100

    workshop.order((workshop.buildpack("a", detect=detect),))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert raised.value.why == f"fail: a@1: {'x' * 500}"
    (told,) = (line for line in workshop.notes.details if line.startswith("a@1: "))
    assert "bytes before this are left out" in told
    assert len(told) < 600_000


def test_a_limit_that_was_met_is_the_reason(workshop: Workshop) -> None:
    def detect(call: Call) -> int:
        call.exceeded = "it met the limit of 5 processes"
        return 137

    workshop.order((workshop.buildpack("a", detect=detect),))
    with pytest.raises(DetectErrored) as raised:
        workshop.detect()
    assert raised.value.what == "a@1 could not look at the source: it met the limit of 5 processes"
    assert raised.value.why == "error: a@1 (exit status 137): it met the limit of 5 processes"
    assert "--limit" in raised.value.fix


def test_a_failure_without_errors_has_a_code_of_its_own(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", detect=lambda call: 100),))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert raised.value.exit_code == 20


# The exit statuses of the detector of lifecycle 0.21.0 with the same buildpacks.
@pytest.mark.parametrize(
    ("order", "status"),
    [
        (["broken?"], 20),
        (["broken? plans"], 20),
        (["broken?", "no"], 20),
        (["broken? no"], 21),
        (["broken? no", "no"], 21),
        (["no broken?"], 21),
        (["broken"], 21),
        (["elsewhere"], 21),
    ],
)
def test_an_error_of_an_optional_buildpack_counts_where_a_required_one_refuses(
    workshop: Workshop, order: list[str], status: int
) -> None:
    known = {
        "no": workshop.buildpack("no", detect=lambda call: 100),
        "broken": workshop.buildpack("broken", detect=says("Traceback", 1)),
        "plans": workshop.buildpack("plans", detect=lambda call: call.plan('[[provides]]\nname = "x"')),
        "elsewhere": workshop.buildpack("elsewhere", rest='[[targets]]\nos = "windows"'),
    }

    def read(word: str) -> Ref:
        return optional(known[word[:-1]]) if word.endswith("?") else known[word]

    workshop.order(*(tuple(map(read, group.split())) for group in order))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert raised.value.exit_code == status
    assert "packhorse -v build" in raised.value.fix  # which shows the error


def test_a_buildpack_without_bin_detect_is_an_error_of_that_buildpack(workshop: Workshop) -> None:
    a = workshop.buildpack("a")
    del workshop.runner.programs["/cnb/buildpacks/a/1/bin/detect"]
    workshop.order((a,), (workshop.buildpack("b"),))
    assert [member.ref.id for member in workshop.detect().group] == ["b"]
    assert any("/cnb/buildpacks/a/1/bin/detect cannot be started" in line for line in workshop.notes.details)


@pytest.mark.parametrize("plan", ["not toml", "provides = 1", "x = " + "1" * 5000, "#" * (2 << 20)])
def test_a_plan_that_cannot_be_read_is_an_error_of_that_buildpack(workshop: Workshop, plan: str) -> None:
    a = workshop.buildpack("a", detect=lambda call: call.plan(plan))
    workshop.order((a,), (workshop.buildpack("b"),))
    assert [member.ref.id for member in workshop.detect().group] == ["b"]


def test_a_plan_that_is_a_link_is_read_inside_the_tree(workshop: Workshop) -> None:
    def detect(call: Call) -> None:
        plan = call.env["CNB_BUILD_PLAN_PATH"]
        call.tree.remove(plan)
        (call.root / plan.lstrip("/")).symlink_to("/etc/passwd")

    workshop.order((workshop.buildpack("a", detect=detect),))
    assert workshop.detect().plan == ()


def test_what_a_failing_detect_planned_does_not_count(workshop: Workshop) -> None:
    def detect(call: Call) -> int:
        call.plan("not toml")
        return 100

    workshop.order((workshop.buildpack("a", detect=detect),))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert type(raised.value) is DetectFailed


def test_the_group_is_told_with_its_names(workshop: Workshop) -> None:
    workshop.order((workshop.buildpack("a", own='name = "The first"'), workshop.buildpack("b")))
    workshop.detect()
    assert workshop.notes.said == ["a@1  The first", "b@1"]


def test_a_version_may_be_left_out_where_there_is_one(workshop: Workshop) -> None:
    a = workshop.buildpack("a", "1.2")
    workshop.order((type(a)("a", ""),))
    assert str(workshop.detect().group[0].ref) == "a@1.2"
    workshop.buildpack("a", "2.0")
    with pytest.raises(NotFoundError, match="without a version") as raised:
        workshop.detect()
    assert raised.value.why == "the builder has 1.2, 2.0"


def test_a_buildpack_in_the_place_of_another_is_refused(workshop: Workshop) -> None:
    a = workshop.buildpack("a")
    text = 'api = "0.12"\n[buildpack]\nid = "b"\nversion = "1"\n'
    workshop.tree.write("/cnb/buildpacks/a/1/buildpack.toml", text.encode())
    workshop.order((a,))
    with pytest.raises(Exception, match="buildpack a@1 is not what its place says"):
        workshop.detect()


def test_a_broken_descriptor_ends_detection(workshop: Workshop) -> None:
    a = workshop.buildpack("a", own="name = 4")
    workshop.order((a,), (workshop.buildpack("b"),))
    with pytest.raises(InputError, match=r"buildpack\.toml:5: buildpack\.name must be a string"):
        workshop.detect()


EXTENSIONS = """\
[[order]]
[[order.group]]
id = "a"
[[order-extensions]]
[[order-extensions.group]]
id = "some/ext"
version = "1"
[[order-extensions]]
[[order-extensions.group]]
id = "other/ext"
version = "2"
"""
UNMET = "asks@1 requires node, which no buildpack before it provides"
NOT_RUN = "image extensions are not supported yet: the builder's are not run: some/ext@1, other/ext@2"


@pytest.mark.parametrize("how", ["inputs", "order.toml"])
def test_image_extensions_are_named_and_so_is_what_is_taken_without_them(
    workshop: Workshop, how: str
) -> None:
    if how == "inputs":
        workshop.set(extensions=((Ref("some/ext", "1"),), (Ref("other/ext", "2"),)))
    else:
        workshop.tree.write("/cnb/order.toml", EXTENSIONS.encode())
    asks = workshop.buildpack("asks", detect=lambda call: call.plan('[[requires]]\nname = "node"\n'))
    plain = workshop.buildpack("plain")
    workshop.order((asks, plain), (optional(asks), plain))
    assert [member.ref.id for member in workshop.detect().group] == ["plain"]
    assert workshop.notes.said == [
        NOT_RUN,
        f"{UNMET}; an image extension may provide it: this group is passed over",
        f"{UNMET}; an image extension may provide it: the build goes on without it",
        "plain@1",
    ]
    workshop.order((asks,))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert f"plan: {UNMET}" in raised.value.why
    assert "image extensions, which are not supported yet" in raised.value.why
    assert "some/ext@1, other/ext@2" in raised.value.why


def test_without_image_extensions_none_are_spoken_of(workshop: Workshop) -> None:
    workshop.tree.write("/cnb/order.toml", EXTENSIONS.partition("[[order-ext")[0].encode())
    workshop.order((workshop.buildpack("a", detect=lambda call: call.plan('[[requires]]\nname = "x"\n')),))
    with pytest.raises(DetectFailed) as raised:
        workshop.detect()
    assert "extension" not in raised.value.why and workshop.notes.said == []
