"""TOML has the bytes that the Go lifecycle's encoder writes (figures: tests/golden/go)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from packhorse.base.go_toml import RawToml, SortedMap, sort_maps, toml_bytes
from packhorse.errors import FormatError

CASES = json.loads((Path(__file__).parents[2] / "golden" / "go" / "values.json").read_text("ascii"))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_decoded_toml_is_written_as_the_reference_writes_it(case: dict[str, str]) -> None:
    table = sort_maps(tomllib.loads(case["input"]))
    assert isinstance(table, SortedMap)
    assert toml_bytes(table).decode() == case["toml"]


def test_a_struct_keeps_its_order_except_that_tables_come_last_and_none_not_at_all() -> None:
    build = {
        "buildpacks": [{"id": "b", "version": "1", "homepage": None}],
        "default": "web",
        "other": None,
        "args": [],
    }
    assert toml_bytes(build) == (
        b'default = "web"\nargs = []\n\n[[buildpacks]]\n  id = "b"\n  version = "1"\n'
    )


def test_bytes_that_are_not_utf_8_are_kept() -> None:
    assert toml_bytes({"caf\udce9": "\udcff"}) == b'"caf\xe9" = "\xff"\n'


def test_verbatim_toml_is_not_quoted_and_stands_among_the_simple_keys() -> None:
    table = {"a": {"x": 1}, "command": RawToml(r'["\u003c"]')}
    assert toml_bytes(table) == b'command = ["\\u003c"]\n\n[a]\n  x = 1\n'


@pytest.mark.parametrize("value", [[None], [1, [None]], 1 << 64])
def test_what_toml_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(FormatError):
        toml_bytes({"x": value})


def test_a_value_of_another_type_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError):
        toml_bytes({"x": b"bytes"})
