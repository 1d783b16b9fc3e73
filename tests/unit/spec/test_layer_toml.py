"""`<layer>.toml`: types, metadata, and what of it is restored."""

from __future__ import annotations

import tomllib

import pytest

from packhorse.errors import InputError
from packhorse.spec.buildpack_files import LayerToml, LayerTypes


def parse(text: str) -> LayerToml:
    return LayerToml.parse(text.encode(), "x.toml")


def test_types_and_metadata_are_read() -> None:
    found = parse('[types]\nlaunch = true\ncache = true\n[metadata]\nversion = "1"\n')
    assert found == LayerToml(LayerTypes(launch=True, cache=True), {"version": "1"})


def test_what_is_not_said_is_false_and_a_layer_without_types_is_none() -> None:
    assert parse("") == LayerToml(LayerTypes(), None)
    assert not LayerTypes()
    assert all(LayerTypes(**{kind: True}) for kind in ("build", "launch", "cache"))


def test_an_empty_table_of_metadata_is_told_from_none() -> None:
    assert parse("[metadata]").metadata == {}
    assert parse("").metadata is None


def test_every_issue_is_told_at_once_with_its_line() -> None:
    with pytest.raises(InputError) as raised:
        parse('launch = true\nbuild = true\nmetadata = 1\n[types]\nlaunch = 1\ncache = "x"\n')
    assert raised.value.issues == (
        "x.toml:2: build belongs in the [types] table",
        "x.toml:1: launch belongs in the [types] table",
        "x.toml:5: types.launch must be true or false",
        "x.toml:6: types.cache must be true or false",
        "x.toml:3: metadata must be a table",
    )


def test_a_restored_file_has_the_metadata_and_never_the_types() -> None:
    text = '[types]\nlaunch = true\n[metadata]\nb = 1\na = {y = [1, 2], x = ""}\n'
    restored = parse(text).dump_metadata()
    assert tomllib.loads(restored.decode()) == {"metadata": {"b": 1, "a": {"y": [1, 2], "x": ""}}}
    assert restored.index(b"a") < restored.index(b"b = 1")
    assert parse("[types]\nlaunch = true\n").dump_metadata() == b""
