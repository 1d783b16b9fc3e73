"""Every error says more than what happened: why, or what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from packhorse import errors

SOURCE = Path(errors.__file__).parent
FOLDERS = ("build", "builder", "cli", "fleet", "host", "lifecycle", "oci", "report", "source", "spec")
"""Where a user's words, files and images are read. Elsewhere some are about what never happens."""

SIGNALS = {"Interrupted", "Terminated", "Quit", "HungUp", "TimedOut"}
"""What ends a command from outside has nothing to add."""

KINDS = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.PackhorseError)
} - SIGNALS


def raised() -> Iterator[tuple[str, ast.Call]]:
    """Every place where an error is made."""
    for folder in FOLDERS:
        for path in sorted((SOURCE / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
                    yield f"{path.relative_to(SOURCE)}:{node.lineno}", node


def test_every_error_says_why_or_what_to_do() -> None:
    calls = list(raised())
    assert len(calls) > 100
    silent = [
        where for where, call in calls if not {word.arg for word in call.keywords} & {"why", "fix", "issues"}
    ]
    assert silent == []


def test_every_kind_of_error_is_drawn_in_the_tree_with_its_code() -> None:
    assert errors.__doc__ is not None
    for name in {*KINDS, *SIGNALS} - {"PackhorseError"}:
        (line,) = (line for line in errors.__doc__.splitlines() if f"── {name} " in f"{line} ")
        code = line.partition(name)[2].split()[0]
        assert int(code) == vars(errors)[name].exit_code, line


_CLAUSE = re.compile(r"\b[BPDE]-\d{3}\b")


def test_no_error_has_a_name_that_only_this_repository_knows() -> None:
    inside = [
        f"{where}: {part.value}"
        for where, call in raised()
        for part in ast.walk(call)
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _CLAUSE.search(part.value)
    ]
    assert inside == []
