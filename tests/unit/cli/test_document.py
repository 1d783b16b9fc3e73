"""What programs read comes back as it was, in every format."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from packhorse.cli.clean import clean
from packhorse.cli.document import written

TEXT = st.text(max_size=12)
VALUES = st.recursive(
    st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_any_fields_come_back(fields: dict[str, Any]) -> None:
    assert json.loads(written(fields, "json")) == fields
    assert yaml.safe_load(written(fields, "yaml")) == fields
    assert tomllib.loads(written(fields, "toml")) == fields


def test_order_stays_and_toml_leaves_out_what_is_null() -> None:
    fields = {"b": None, "a": {"x": None, "y": [1, None]}}
    assert written(fields, "yaml").splitlines()[0] == "b: null"
    assert tomllib.loads(written(fields, "toml")) == {"a": {"y": [1]}}


def test_what_would_move_a_cursor_is_an_escape() -> None:
    fields = {"name": "\x1b[2J\u202e\U0001f434"}
    assert written(fields, "json").isascii() and written(fields, "yaml").isascii()
    for form in ("json", "yaml", "toml"):
        assert "\x1b" not in written(fields, form)


def test_what_would_turn_text_comes_back_and_is_not_taken_out_on_its_way_to_the_terminal() -> None:
    fields = {"a\u202e": "b\u202e\x85\x7f\u2028"}
    for form, read in (("json", json.loads), ("yaml", yaml.safe_load), ("toml", tomllib.loads)):
        assert read(clean(written(fields, form))) == fields


def test_half_a_surrogate_pair_can_be_written() -> None:
    for form, read in (("yaml", yaml.safe_load), ("toml", tomllib.loads)):
        assert read(written({"a": "\ud83d"}, form)) == {"a": "�"}
