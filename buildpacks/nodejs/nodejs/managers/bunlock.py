"""bun.lock: the projects of which it settles the dependencies.

On the arrow source → plan; a reader without side effects. Called by `bun`. Of Bun's binary lock (bun.lockb)
nothing is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import conflict

NAME = "bun.lock"
_TABLE = re.compile(r'  "(\w+)": \{')
_PROJECT = re.compile(r'    "((?:[^"\\]|\\.)*)": \{.*')


def check(text: str) -> None:
    """Raises InputError for a lock with conflicts of a merge, which Bun passes over."""
    conflict.refuse(text, name=NAME, fix=f"resolve them, run `bun install`, and commit {NAME}")


def projects(text: str) -> Iterator[str]:
    """The paths of all projects of the workspace, the root's empty."""
    table = ""
    for line in text.splitlines():
        if match := _TABLE.match(line):
            table = match[1]
        elif table == "workspaces" and (match := _PROJECT.fullmatch(line)):
            yield match[1]
