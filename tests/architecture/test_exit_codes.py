"""docs/reference/exit-codes.md has every exit code that there is."""

from __future__ import annotations

import re
from pathlib import Path

from packhorse import errors

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def test_every_error_ends_in_a_documented_code() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PackhorseError)
    }
    assert raised | {0, 141} == documented
