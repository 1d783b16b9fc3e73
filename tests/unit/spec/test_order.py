"""From orders to groups: composites, options, repeated ids and cycles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.errors import InputError, NotFoundError
from packhorse.spec.api import BuildpackApi
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref
from packhorse.spec.resolve import Lookup, groups

API = BuildpackApi(0, 12)


def order(text: str) -> Order:
    """`A b, c?` is an order of two groups; `?` marks what is optional."""
    return tuple(
        tuple(Ref(word.rstrip("?"), "1", word.endswith("?")) for word in group.split())
        for group in text.split(",")
    )


def lookup(composites: dict[str, str]) -> Lookup:
    """Finds composites by name; everything else is a component."""

    def find(ref: Ref) -> Descriptor:
        if ref.id == "missing":
            raise NotFoundError("no such buildpack")
        return Descriptor(
            API, ref.id, ref.version or "9", order=order(composites[ref.id]) if ref.id in composites else ()
        )

    return find


def spelled(text: str, **composites: str) -> list[str]:
    found = groups(order(text), lookup(composites))
    return [" ".join(f"{ref.id}{'?' if ref.optional else ''}" for ref in group) for group in found]


TABLE: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "components alone": ("a b, c", {}, ["a b", "c"]),
    "a composite in the middle": (
        "E O F",
        {"O": "A B, C D"},
        ["E A B F", "E C D F"],
    ),
    "two composites make every pair, left to right": (
        "O P",
        {"O": "A B, C D", "P": "E F, G H"},
        ["A B E F", "A B G H", "C D E F", "C D G H"],
    ),
    "a composite in a composite": ("O z", {"O": "P y, w", "P": "a, b"}, ["a y z", "b y z", "w z"]),
    "an optional composite is left out last": ("a O? b", {"O": "x, y"}, ["a x b", "a y b", "a b"]),
    "options inside a composite stay options": ("O?", {"O": "a? b"}, ["a? b", ""]),
    "what is in the group already is not added again": ("a O a", {"O": "a b"}, ["a b"]),
    "one composite twice": ("O O", {"O": "a, b"}, ["a", "a b", "b a", "b"]),
    "one composite beside another that has it": ("O P", {"O": "a", "P": "O b"}, ["a b"]),
}


@pytest.mark.parametrize(("text", "composites", "expected"), TABLE.values(), ids=TABLE)
def test_an_order_stands_for_groups(text: str, composites: dict[str, str], expected: list[str]) -> None:
    assert spelled(text, **composites) == expected


def test_versions_are_filled_in_from_the_descriptors() -> None:
    assert list(groups(((Ref("a", ""),),), lookup({}))) == [(Ref("a", "9"),)]


@pytest.mark.parametrize(
    "composites",
    [
        {"A": "A"},
        {"A": "B", "B": "A"},
        {"A": "x A"},
        {"A": "x?, y A?"},
        # Seen only through what follows a composite, after another cycle's first turn.
        {"A": "B C", "B": "x", "C": "A"},
        {"A": "B C", "B": "x, y", "C": "D", "D": "z A"},
    ],
    ids=str,
)
def test_a_composite_that_contains_itself_is_an_error(composites: dict[str, str]) -> None:
    with pytest.raises(InputError) as raised:
        spelled("A", **composites)
    assert raised.value.why.startswith("A -> ")
    assert raised.value.why.endswith("-> A")


def test_groups_are_found_only_when_they_are_asked_for() -> None:
    found = groups(order("a, missing"), lookup({}))
    assert next(found) == (Ref("a", "1"),)
    with pytest.raises(NotFoundError):
        next(found)


@st.composite
def nested(draw: st.DrawFn) -> tuple[str, dict[str, str]]:
    """An order over composites of which each has only later ones, so that none contains itself."""
    composites: dict[str, str] = {}
    known = list("abcd")
    for name in ("Z", "Y", "X"):
        words = st.sampled_from([*known, *(f"{word}?" for word in known)])
        some = st.lists(words, min_size=1, max_size=3).map(" ".join)
        composites[name] = ", ".join(draw(st.lists(some, min_size=1, max_size=2)))
        known.append(name)
    return composites.pop("X"), composites


def expanded(group: list[Ref], composites: dict[str, str]) -> list[list[str]]:
    """Every group that `group` stands for, by rewriting its first composite until there is none."""
    at = next((index for index, ref in enumerate(group) if ref.id in composites), None)
    if at is None:
        return [list(dict.fromkeys(ref.id for ref in group))]
    inner = [list(choice) for choice in order(composites[group[at].id])]
    choices = [*inner, *([[]] if group[at].optional else [])]
    return [one for choice in choices for one in expanded(group[:at] + choice + group[at + 1 :], composites)]


@given(nested())
def test_groups_are_those_that_rewriting_gives_in_its_order_b_038(case: tuple[str, dict[str, str]]) -> None:
    text, composites = case
    rewritten = [one for group in order(text) for one in expanded(list(group), composites)]
    found = [[ref.id for ref in group] for group in groups(order(text), lookup(composites))]
    assert found == rewritten


@given(nested())
def test_no_id_is_twice_in_a_group_b_018(case: tuple[str, dict[str, str]]) -> None:
    text, composites = case
    for group in groups(order(text), lookup(composites)):
        assert len({ref.id for ref in group}) == len(group)
