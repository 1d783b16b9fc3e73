"""Plain ranges of versions, which are read without node-semver: with what node-semver says of them."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import nodesemver
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodejs import versions

NUMBERS = st.integers(0, 30).map(str)
PLAIN_VERSIONS = st.tuples(NUMBERS, NUMBERS, NUMBERS).map(".".join)
VERSIONS = st.one_of(PLAIN_VERSIONS, PLAIN_VERSIONS, PLAIN_VERSIONS.map("v{}-rc.1".format))
PARTIAL = st.lists(NUMBERS, min_size=1, max_size=3).map(".".join)
OPEN = st.one_of(st.just("*"), PARTIAL.filter(lambda text: text.count(".") < 2).map("{}.x".format))
OPERATORS = st.sampled_from(["", "", ">=", "<", ">", "<=", "^", "~"])
PLAIN = st.one_of(st.builds(str.__add__, OPERATORS, PARTIAL), OPEN)
ODD = st.text("0123x*.<>=^~|v- rc", max_size=12)
SETS = st.lists(st.one_of(PLAIN, PLAIN, PLAIN, ODD), max_size=3).map(" ".join)
RANGES = st.lists(SETS, min_size=1, max_size=3).map(" || ".join)


def said(ask: Callable[..., Any], *values: str, loose: bool) -> bool | type[Exception]:
    """The answer, or the kind of error: node-semver takes `v1.0.0` for no version unless `loose`."""
    try:
        return bool(ask(*values, loose=loose))
    except ValueError as error:
        return type(error)


@given(RANGES, VERSIONS, st.booleans())
def test_a_range_allows_what_node_semver_says(text: str, version: str, loose: bool) -> None:
    assert said(versions.allows, text, version, loose=loose) == said(
        lambda *_, **options: nodesemver.satisfies(version, text, **options), loose=loose
    )


@given(st.one_of(RANGES, ODD))
def test_what_is_a_range_or_a_version_is_so_to_node_semver(text: str) -> None:
    assert versions.is_range(text) == (nodesemver.valid_range(text, loose=True) is not None)
    assert versions.is_version(text) == bool(nodesemver.valid(text, loose=True))


@pytest.mark.parametrize("text", ["", "x", ".x", ".*", ".x.x", "1..x", "1.", "."])
def test_dots_without_numbers_are_what_they_are_to_node_semver(text: str) -> None:
    assert versions.is_range(text) == (nodesemver.valid_range(text, loose=True) is not None)
    assert said(versions.allows, text, "22.1.0", loose=True) == said(
        lambda *_, **options: nodesemver.satisfies("22.1.0", text, **options), loose=True
    )


@pytest.mark.parametrize(
    "text", ["22", "22.x", "^22.3.0", "~22.23", ">=20", ">=20 <23", "18 || 20.x || >=22.1.0", "*", "22.23.3"]
)
def test_what_people_write_is_read_without_node_semver(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nodesemver", None)
    with pytest.raises(ImportError):
        import_module("nodesemver")
    assert versions.allows(text, "22.23.3") and versions.is_range(text)
