"""One member of a JSON text is changed, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packhorse.base.jsonedit import with_member, without_member

DOCKER = """{
\t"auths": {
\t\t"a.example": {
\t\t\t"auth": "YTpi"
\t\t}
\t},
\t"detachKeys": "ctrl-e,e",   "odd" : [1e3, "\\u00e4"]
}"""


def test_a_new_member_is_written_as_its_neighbours_are() -> None:
    changed = with_member(DOCKER, ("auths", "b.example"), {"auth": "eDp5"})
    assert changed == DOCKER.replace(
        "\n\t\t}\n\t},", '\n\t\t},\n\t\t"b.example": {\n\t\t\t"auth": "eDp5"\n\t\t}\n\t},'
    )


def test_a_member_that_is_there_is_replaced_where_it_stands() -> None:
    changed = with_member(DOCKER, ("auths", "a.example"), {"auth": "eDp5"})
    assert changed == DOCKER.replace("YTpi", "eDp5")


@pytest.mark.parametrize("text", ["{}", " { } \n", "{\n}\n"])
def test_objects_on_the_way_are_made(text: str) -> None:
    changed = with_member(text, ("auths", "a.example"), {"auth": "x"})
    assert json.loads(changed) == {"auths": {"a.example": {"auth": "x"}}}
    assert '\n\t"auths": {\n\t\t"a.example": {\n\t\t\t"auth": "x"\n\t\t}\n\t}\n}' in changed


def test_indentation_is_taken_from_the_text() -> None:
    changed = with_member('{\n  "a": 1\n}\n', ("b", "c"), {})
    assert changed == '{\n  "a": 1,\n  "b": {\n    "c": {}\n  }\n}\n'


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"a": 1}', "{}"),
        ('{ "a": 1, "b": 2 }', '{ "b": 2 }'),
        ('{ "b": 2, "a": 1 }', '{ "b": 2 }'),
        ('{\n\t"b": 2,\n\t"a": 1,\n\t"c": 3\n}', '{\n\t"b": 2,\n\t"c": 3\n}'),
    ],
)
def test_a_member_is_taken_away_with_its_comma(text: str, left: str) -> None:
    assert without_member(text, ("a",)) == left


NAMES = st.sampled_from(["a", "b", 'q"\\', "ä\n", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, max_size=3), max_size=3),
    st.sampled_from([None, 1, "\t"]),
    NAMES,
    NAMES,
    VALUES,
)
def test_what_json_makes_of_it_is_what_was_asked_for(document, indent, outer, inner, value) -> None:  # type: ignore[no-untyped-def]
    text = json.dumps(document, indent=indent)
    changed = with_member(text, (outer, inner), value)
    document.setdefault(outer, {})[inner] = value
    assert json.loads(changed) == document
    del document[outer][inner]
    assert json.loads(without_member(changed, (outer, inner))) == document


@pytest.mark.parametrize(
    "text", ['{"auths": null}', '{"auths":null,"x": {"y": null}}', '{"x": 1, "auths" : null }']
)
def test_null_on_the_way_is_an_object_that_was_never_made(text: str) -> None:
    changed = json.loads(with_member(text, ("auths", "a.example"), {"auth": "x"}))
    assert changed == json.loads(text) | {"auths": {"a.example": {"auth": "x"}}}
