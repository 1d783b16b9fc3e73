"""What programs read comes back as it was, in every format."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from packhorse.cli.document import json_pieces, serialize
from packhorse.cli.output import sanitize
from packhorse.errors import FormatError

TEXT = st.text(max_size=12)
VALUES = st.recursive(
    st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_fields_come_back(fields: dict[str, Any]) -> None:
    assert json.loads(serialize(fields, "json")) == fields
    assert yaml.safe_load(serialize(fields, "yaml")) == fields
    assert tomllib.loads(serialize(fields, "toml")) == fields


def test_order_stays_and_toml_leaves_out_what_is_null() -> None:
    fields = {"b": None, "a": {"x": None, "y": [1, None]}}
    assert serialize(fields, "yaml").splitlines()[0] == "b: null"
    assert tomllib.loads(serialize(fields, "toml")) == {"a": {"y": [1]}}


def test_what_would_move_a_cursor_is_an_escape() -> None:
    fields = {"name": "\x1b[2J\u202e\U0001f434"}
    assert serialize(fields, "json").isascii() and serialize(fields, "yaml").isascii()
    for form in ("json", "yaml", "toml"):
        assert "\x1b" not in serialize(fields, form)


def test_what_would_turn_text_comes_back_and_is_not_taken_out_on_its_way_to_the_terminal() -> None:
    fields = {"a\u202e": "b\u202e\x85\x7f\u2028"}
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load), ("toml", tomllib.loads)):
        assert read(sanitize(serialize(fields, form))) == fields


def test_half_a_surrogate_pair_can_be_written() -> None:
    for form, read in (("yaml", yaml.safe_load), ("toml", tomllib.loads)):
        assert read(serialize({"a": "\ud83d"}, form)) == {"a": "�"}


@given(VALUES)
def test_pieces_are_what_python_writes_itself(value: Any) -> None:
    assert "".join(json_pieces(value)) == json.dumps(value, indent=2)


def test_of_a_list_that_is_made_one_by_one_no_two_are_made_at_once() -> None:
    made: list[int] = []

    def each() -> Iterator[dict[str, int]]:
        for number in range(100):
            made.append(number)
            yield {"number": number}

    for piece in json_pieces({"all": each()}):
        if piece.isdigit():
            assert len(made) == int(piece) + 1
    assert len(made) == 100


@pytest.mark.parametrize("form", ["yaml", "toml"])
def test_what_is_nested_too_deep_to_be_written_is_an_error(form: str) -> None:
    fields: dict[str, Any] = {}
    for _ in range(5000):
        fields = {"a": fields}
    with pytest.raises(FormatError, match="cannot be shown"):
        serialize(fields, form)
