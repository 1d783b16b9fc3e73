"""What `base.go_json` and `base.go_toml` write, another reader reads as the same value."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from packhorse.base.go_json import json_bytes
from packhorse.base.go_toml import toml_bytes

pytestmark = pytest.mark.system

INTEGERS = some.integers(-(1 << 63), (1 << 63) - 1)
EXACT = some.floats(-(2.0**53), 2.0**53)  # beyond, the shortest digits of a float are another integer's

JSON = some.recursive(
    some.none() | some.booleans() | INTEGERS | EXACT | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
)

TOML = some.recursive(
    some.booleans()
    | INTEGERS
    | some.floats(allow_nan=False)
    | some.text()
    | some.datetimes()
    | some.dates()
    | some.times(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_reader_gets_the_same_value_back(value: object) -> None:
    assert json.loads(json_bytes(value)) == value


@settings(deadline=None)
@given(some.dictionaries(some.text(), TOML, max_size=5))
def test_any_toml_reader_gets_the_same_value_back(table: dict[str, object]) -> None:
    assert tomllib.loads(toml_bytes(table).decode()) == table
