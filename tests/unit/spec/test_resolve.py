"""Which of the buildpacks that passed take part, with tables of plans and a model that tries every choice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.spec.buildpack_files import PlanAlternative, PlanToml, Require
from packhorse.spec.buildpack_toml import Ref
from packhorse.spec.resolve import PassedBuildpack, Resolution, resolve


def section(text: str) -> PlanAlternative:
    """`+a` provides a, `-a` requires it."""
    words = text.split()
    provides = tuple(word[1:] for word in words if word[0] == "+")
    return PlanAlternative(provides, tuple(Require(word[1:]) for word in words if word[0] == "-"))


def passed(*lines: str) -> list[PassedBuildpack]:
    """`a: +x -y | +y` is a buildpack with one alternative, `a?: …` an optional one."""
    found = []
    for line in lines:
        name, _, options = line.partition(":")
        ref = Ref(name.rstrip("?"), "1", name.endswith("?"))
        found.append(PassedBuildpack(ref, PlanToml(tuple(map(section, options.split("|"))))))
    return found


def group(resolution: Resolution) -> str:
    return " ".join(ref.id for ref in resolution.group)


TABLE = {
    "one that wants nothing": (["a:"], "a"),
    "a provider before who requires": (["a: +x", "b: -x"], "a b"),
    "a provider after who requires": (["b: -x", "a: +x"], ""),
    "who provides and requires at once": (["a: +x -x"], "a"),
    "a required provider that nobody uses": (["a: +x", "b:"], ""),
    "a requirement that nobody meets": (["a: -x"], ""),
    "an optional provider that nobody uses": (["a?: +x", "b:"], "b"),
    "an optional one whose requirement nobody meets": (["a?: -x", "b:"], "b"),
    "a provider whose only user is dropped": (["a: +x", "b?: -x -y"], ""),
    "an optional provider whose only user is dropped": (["a?: +x", "b?: -x -y", "c:"], "c"),
    "a chain that falls from its end": (["a?: +x", "b?: -x +y", "c?: -y +z", "d:"], "d"),
    "nobody left": (["a?: +x"], ""),
    "two providers of one thing": (["a: +x", "b: +x", "c: -x"], "a b c"),
    "a second provider after the last requirement": (["a: +x", "b: -x", "c: +x"], ""),
    "an optional second provider after the last requirement": (["a: +x", "b: -x", "c?: +x"], "a b"),
    "a second requirement after a second provider": (["a: +x", "b: -x", "c: +x", "d: -x"], "a b c d"),
    "the first alternative holds": (["a: +x | ", "b: -x"], "a b"),
    "the second alternative holds": (["a: +x | ", "b:"], "a b"),
    "the last alternatives of two": (["a: -n | +x", "b: -n | -x"], "a b"),
    "alternatives before dropping": (["a?: +x | ", "b:"], "a b"),
    "nothing at all": ([], ""),
}


@pytest.mark.parametrize(("lines", "expected"), TABLE.values(), ids=TABLE)
def test_the_group_that_comes_of_plans(lines: list[str], expected: str) -> None:
    assert group(resolve(passed(*lines))) == expected


def test_an_entry_has_all_providers_so_far_and_all_requirements_with_their_metadata() -> None:
    ask, again = Require("x", {"version": "1"}), Require("x", {"version": "2"})
    a, b, c, d = (Ref(name, "1") for name in "abcd")
    resolution = resolve(
        [
            PassedBuildpack(a, PlanToml((PlanAlternative(("x",)),))),
            PassedBuildpack(b, PlanToml((PlanAlternative((), (ask,)),))),
            PassedBuildpack(c, PlanToml((PlanAlternative(("x",)),))),
            PassedBuildpack(d, PlanToml((PlanAlternative((), (again,)),))),
        ]
    )
    (entry,) = resolution.entries
    assert (entry.name, entry.providers, entry.requires) == ("x", (a, c), (ask, again))


def test_reasons_say_who_was_dropped_and_why() -> None:
    assert resolve(passed("a?: +x", "b?: -y", "c:")).reasons == (
        "b@1 requires y, which no buildpack before it provides",
        "a@1 provides x, which no buildpack after it uses",
    )


def test_what_fails_the_group_is_the_only_reason_whatever_could_have_been_dropped() -> None:
    assert resolve(passed("a?: +x", "b: -y")).reasons == (
        "b@1 requires y, which no buildpack before it provides",
    )


def test_a_failure_says_each_reason_once_though_many_trials_gave_it() -> None:
    resolution = resolve(passed("a: -x | -x", "b: | "))
    assert not resolution
    assert resolution.reasons == ("a@1 requires x, which no buildpack before it provides",)


names = st.sampled_from("xyz")
sections = st.builds(
    PlanAlternative,
    st.lists(names, max_size=2, unique=True).map(tuple),
    st.lists(names.map(Require), max_size=2).map(tuple),
)
plans = st.lists(sections, min_size=1, max_size=2).map(lambda options: PlanToml(tuple(options)))


@st.composite
def groups_of_passed(draw: st.DrawFn) -> list[PassedBuildpack]:
    size = draw(st.integers(0, 5))
    return [PassedBuildpack(Ref(str(n), "1", draw(st.booleans())), draw(plans)) for n in range(size)]


def chosen(resolution: Resolution, candidates: Sequence[PassedBuildpack]) -> list[list[PlanAlternative]]:
    """Every way to give each member of the resolved group one of its alternatives."""
    members = [one for one in candidates if one.ref in resolution.group]
    return [list(choice) for choice in itertools.product(*(one.plan.alternatives for one in members))]


def holds(sections: Sequence[PlanAlternative]) -> bool:
    """B-028 and B-029: each requirement has a provider at or before it, each provision a user at or after."""
    requires = [{require.name for require in section.requires} for section in sections]
    provides = [set(section.provides) for section in sections]
    met = all(names <= set().union(*provides[: at + 1]) for at, names in enumerate(requires))
    used = all(names <= set().union(*requires[at:]) for at, names in enumerate(provides))
    return met and used


def model(candidates: Sequence[PassedBuildpack]) -> tuple[Ref, ...]:
    """The group by the clauses, from all subsets: for the first choice of alternatives for which one holds,
    the largest that keeps whoever must stay.

    Two subsets that hold make a larger one together, so there is one largest.
    """
    for choice in itertools.product(*(range(len(one.plan.alternatives)) for one in candidates)):
        droppable = [
            one.ref.optional and index == len(one.plan.alternatives) - 1
            for one, index in zip(candidates, choice, strict=True)
        ]
        holding = [
            subset
            for subset in itertools.product((True, False), repeat=len(candidates))
            if all(stays or free for stays, free in zip(subset, droppable, strict=True))
            and holds(
                [
                    one.plan.alternatives[index]
                    for one, index, stays in zip(candidates, choice, subset, strict=True)
                    if stays
                ]
            )
            and any(subset)
        ]
        if holding:
            best = max(holding, key=sum)
            return tuple(one.ref for one, stays in zip(candidates, best, strict=True) if stays)
    return ()


@given(groups_of_passed())
def test_the_group_is_the_one_that_the_clauses_describe(candidates: list[PassedBuildpack]) -> None:
    assert resolve(candidates).group == model(candidates)


@given(groups_of_passed())
def test_the_group_is_filtered_and_never_reordered_b_024(candidates: list[PassedBuildpack]) -> None:
    order = [one.ref for one in candidates]
    resolution = resolve(candidates)
    assert [ref for ref in order if ref in resolution.group] == list(resolution.group)


@given(groups_of_passed())
def test_no_required_buildpack_is_left_out_b_028_b_029(candidates: list[PassedBuildpack]) -> None:
    resolution = resolve(candidates)
    if resolution:
        assert all(one.ref.optional or one.ref in resolution.group for one in candidates)


@given(groups_of_passed())
def test_every_requirement_has_a_provider_and_every_provision_a_user_b_028_to_b_032(
    candidates: list[PassedBuildpack],
) -> None:
    resolution = resolve(candidates)
    if resolution:
        assert any(holds(sections) for sections in chosen(resolution, candidates))


@given(groups_of_passed())
def test_every_entry_has_a_provider_and_a_requirement_of_the_group_p_185(
    candidates: list[PassedBuildpack],
) -> None:
    resolution = resolve(candidates)
    entries = resolution.entries
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.requires
        assert entry.providers
        assert set(entry.providers) <= set(resolution.group)
        assert {require.name for require in entry.requires} == {entry.name}


@given(groups_of_passed())
def test_a_resolution_is_the_same_each_time(candidates: list[PassedBuildpack]) -> None:
    assert resolve(candidates) == resolve(candidates)
