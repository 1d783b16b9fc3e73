"""SECURITY.md shows what the tests try."""

from __future__ import annotations

from attacker import page


def test_the_tables_are_those_that_the_tests_expect() -> None:
    assert page.PAGE.read_text() == page.page(), "run `python -m attacker.page` in tests"
