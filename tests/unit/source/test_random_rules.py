"""Random rules leave out of random sources what Git says they match."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.random_source import find_kept, make_source
from lanes import first_in_test
from packhorse.source.project_toml import Project

pytestmark = pytest.mark.system  # Git is a process

CASES = 20
"""How many sources each test has."""


@pytest.mark.parametrize("first", first_in_test(range(0, 200, CASES)))
def test_random_rules_leave_out_what_git_says_they_match(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + CASES):
        source = make_source(tmp_path / f"app-{seed}", seed)
        project = Project.parse(source.project_toml.encode(), "project.toml")
        left_out = project.excluded_paths(source.app)
        paths = {str(path.relative_to(source.app)) for path in source.app.rglob("*")}
        kept = {path for path in paths if not any(f"{path}/".startswith(f"{out}/") for out in left_out)}
        assert kept == find_kept(source, tmp_path / f"git-{seed}"), (seed, source.rules, source.is_include)
