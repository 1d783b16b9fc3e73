"""The cases of a table that one test runs side by side, each named when it fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor


def check_all(cases: Mapping[str, Callable[[], object]], *, at_once: int | None = None) -> None:
    """Runs every case, so many `at_once` (the processors), then fails with the names of those that failed."""

    def problem(name: str) -> str:
        try:
            cases[name]()
        except AssertionError as error:
            return f"{name}: {error}"
        except Exception as error:
            error.add_note(f"in the case {name!r}")
            raise
        return ""

    with ThreadPoolExecutor(at_once or os.cpu_count()) as pool:
        problems = [text for text in pool.map(problem, cases) if text]
    assert not problems, "\n".join(problems)
