"""The build plan that bin/detect writes, and the plan that bin/build is given."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.errors import InputError
from packhorse.spec.buildpack_files import BuildpackPlan, PlanAlternative, PlanToml, Require


def parse(text: str) -> PlanToml:
    return PlanToml.parse(text.encode(), "plan.toml")


def test_an_empty_plan_is_one_empty_alternative() -> None:
    assert parse("").alternatives == (PlanAlternative(),)


def test_the_top_level_is_the_first_alternative_and_each_or_another() -> None:
    plan = parse(
        """
        provides = [{name = "node"}]
        [[requires]]
        name = "node"
        [requires.metadata]
        version = "20"
        [[or]]
        [[or.requires]]
        name = "npm"
        [[or]]
        """
    )
    assert plan.alternatives == (
        PlanAlternative(("node",), (Require("node", {"version": "20"}),)),
        PlanAlternative((), (Require("npm"),)),
        PlanAlternative(),
    )


def test_every_issue_is_told_at_once_with_its_line() -> None:
    with pytest.raises(InputError) as raised:
        parse(
            '[[provides]]\n[[requires]]\nname = "x"\nversion = "1"\nmetadata = 4\n[[or]]\nprovides = ["x"]\n'
        )
    assert raised.value.issues == (
        "plan.toml:1: provides.name is missing",
        "plan.toml:4: requires.version is no key of its own any more; put it into requires.metadata",
        "plan.toml:5: requires.metadata must be a table",
        "plan.toml:7: or.provides must be an array of tables ([[or.provides]])",
    )


def test_a_plan_without_entries_is_an_empty_file() -> None:
    assert BuildpackPlan(()).dump() == b""


requires = st.builds(
    Require,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.dictionaries(st.sampled_from("ab"), st.integers(-5, 5) | st.text("xyz\"'\n")),
)


@given(st.lists(requires, min_size=1))
def test_a_plan_says_each_entry_with_its_metadata(entries: list[Require]) -> None:
    written = tomllib.loads(BuildpackPlan(tuple(entries)).dump().decode())
    assert [(entry["name"], entry.get("metadata", {})) for entry in written["entries"]] == [
        (entry.name, entry.metadata) for entry in entries
    ]
