"""What a step may be asked to run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from packhorse.base.sandbox import Bind, SandboxSpec
from packhorse.errors import SandboxError
from packhorse.sandbox.init import check_words_of

STEP = SandboxSpec(argv=("sh", "-c", "true"), env={"A": "\udcff"}, cwd="/", mounts=(Bind(Path("/x"), "/x"),))


def test_any_bytes_but_nul_can_be_given() -> None:
    check_words_of(STEP)


@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_what_no_program_can_be_given_is_refused_by_where_it_stands(bad: str) -> None:
    for spec, says in (
        (replace(STEP, argv=("sh", bad)), "the command has"),
        (replace(STEP, executable=bad), "the command has"),
        (replace(STEP, cwd=bad), "the directory to start in has"),
        (replace(STEP, env={bad: ""}), "the environment has"),
        (replace(STEP, env={"A": bad}), "the environment has"),
        (replace(STEP, mounts=(Bind(Path("/x"), bad),)), "the target of a mount has"),
    ):
        with pytest.raises(SandboxError, match=says):
            check_words_of(spec)
