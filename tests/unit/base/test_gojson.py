"""JSON has the bytes that Go's encoding/json writes (figures: tests/golden/go)."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path

import pytest

from packhorse.base.go_json import json_bytes, loads, parse_number
from packhorse.base.go_toml import SortedMap, sort_maps
from packhorse.errors import FormatError

CASES = json.loads((Path(__file__).parents[2] / "golden" / "go" / "values.json").read_text("ascii"))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_decoded_toml_is_written_as_go_writes_it(case: dict[str, str | None]) -> None:
    value = sort_maps(tomllib.loads(case["input"] or ""))
    if case["json"] is None:
        with pytest.raises(FormatError):
            json_bytes(value)
    else:
        assert json_bytes(value).decode() == case["json"]


def test_a_dict_keeps_its_order_and_a_sorted_one_is_written_by_the_bytes_of_its_keys() -> None:
    inner = {"b": None, "a": []}
    assert json_bytes(inner) == b'{"b":null,"a":[]}'
    assert (
        json_bytes(SortedMap({"é": 1, "z": inner, "Z": ()}))
        == '{"Z":[],"z":{"b":null,"a":[]},"é":1}'.encode()
    )


def test_keys_beyond_the_basic_plane_sort_by_bytes_and_not_by_utf_16() -> None:
    assert json_bytes(SortedMap({"\U0001f600": 1, "\uffee": 2})) == '{"\uffee":2,"\U0001f600":1}'.encode()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\udcffb", b'"a\\ufffdb"'),
        ("\udce2\udc82x", b'"\\ufffd\\ufffdx"'),
        ("\udce2\udc82\udcac", '"€"'.encode()),
        ("\ufffd", b'"\xef\xbf\xbd"'),
        ("\ud800", b'"\xef\xbf\xbd"'),
    ],
)
def test_bytes_that_are_not_utf_8_become_one_replacement_each(text: str, written: bytes) -> None:
    assert json_bytes(text) == written


def test_booleans_are_not_numbers() -> None:
    assert json_bytes([True, False, 1, 0]) == b"[true,false,1,0]"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1 << 64, -(1 << 63) - 1])
def test_a_number_that_go_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(FormatError):
        json_bytes({"x": value})


def test_a_value_of_another_type_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        json_bytes({1})


@pytest.mark.parametrize("text", ["1e999", "-1e999", "[1e400]"])
def test_a_number_that_is_too_large_for_go_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        loads(text)
    with pytest.raises(ValueError, match="too large"):
        loads("1" * 400, parse_int=parse_number)
