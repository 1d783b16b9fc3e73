"""Which words of `packhorse run` are ours, and which are the image's."""

from __future__ import annotations

from typing import Any

import pytest

from packhorse.cli.run import run
from packhorse.errors import RunError


def given(*words: str) -> dict[str, Any]:
    params = run.make_context("run", list(words)).params
    return {name: value for name, value in params.items() if value and name != "registry_options"}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("app",), {"name": "app"}),
        (("-p", "80:80", "app"), {"name": "app", "ports": ("80:80",)}),
        (("app", "-p", "80:80"), {"name": "app", "ports": ("80:80",)}),
        (("app", "ls", "-l"), {"name": "app", "arguments": ("ls", "-l")}),
        (("-it", "app", "sh"), {"name": "app", "interactive": True, "tty": True, "arguments": ("sh",)}),
        (("app", "-e", "A=b", "sh", "-e"), {"name": "app", "env": ("A=b",), "arguments": ("sh", "-e")}),
        (("app", "--", "ls"), {"name": "app", "arguments": ("--", "ls")}),
        (("app", "-c", "id"), {"name": "app", "arguments": ("-c", "id")}),
        (
            ("--entrypoint", "sh", "app", "-c", "id"),
            {"name": "app", "entrypoint": "sh", "arguments": ("-c", "id")},
        ),
        (("--", "app", "-p", "1"), {"name": "app", "arguments": ("-p", "1")}),
        (("app", "-"), {"name": "app", "arguments": ("-",)}),
    ],
)
def test_options_stand_before_the_name_or_right_behind_it(
    words: tuple[str, ...], meant: dict[str, Any]
) -> None:
    assert given(*words) == meant


@pytest.mark.parametrize(
    "words", [(), ("-z", "app"), ("--entrypoint",), ("-p",), ("--pids-limit", "١", "app")]
)
def test_what_cannot_be_understood_ends_as_what_could_not_be_run(words: tuple[str, ...]) -> None:
    with pytest.raises(RunError):
        given(*words)
