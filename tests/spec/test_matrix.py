"""The list of clauses and docs/reference/spec-matrix.md agree with the tests and the source."""

from __future__ import annotations

import re

from spec import matrix


def test_the_committed_matrix_is_current() -> None:
    assert matrix.MATRIX.read_text() == matrix.matrix(), "run: python tests/spec/matrix.py"


def test_every_clause_has_a_test_or_says_why_not() -> None:
    held = matrix.by_clause()
    said = {name for name, clause in matrix.clauses().items() if clause.by or clause.note}
    assert {name for name, tests in held.items() if not tests} - said == set()


def test_the_numbers_of_each_letter_have_no_gap_and_stand_in_order() -> None:
    last = {"B": 158, "P": 197, "X": 27, "D": 10, "R": 6, "J": 9, "O": 37}
    numbers = [f"{letter}-{number:03}" for letter, end in last.items() for number in range(1, end + 1)]
    assert list(matrix.clauses()) == numbers


def test_every_clause_that_a_test_is_named_after_is_listed() -> None:
    assert set(matrix.by_clause()) == set(matrix.clauses())


def test_every_test_that_the_list_names_exists() -> None:
    named = {test for clause in matrix.clauses().values() for test in clause.tests}
    assert named - set(matrix.tests()) == set()


def test_every_clause_that_the_source_names_is_listed() -> None:
    found = set()
    for folder in ("src/packhorse", "launcher/src", "buildpacks"):
        for path in (matrix.ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".c", ".h") and "_bundled" not in path.parts:
                found |= set(re.findall(r"\b[BDJOPRX]-\d{3}\b", path.read_text()))
    assert found
    assert found - set(matrix.clauses()) == set()


def test_names_of_tests_are_read_with_their_ranges() -> None:
    assert matrix.named("a.py::test_B_016_a_b_017_c") == ["B-016", "B-017"]
    assert matrix.named("a.py::test_B_042_and_B_051_of") == ["B-042", "B-051"]
    assert matrix.named("a.py::test_all_p_028_to_p_030") == ["P-028", "P-029", "P-030"]
    assert matrix.named("a.py::test_a_b_c_and_pub_100") == []
