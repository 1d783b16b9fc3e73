"""How an application directory is divided, beyond what the reference's figures show."""

from __future__ import annotations

import os
from pathlib import Path

from packhorse.base.rooted import Rooted
from packhorse.layers.slices import divide
from packhorse.store import removal

_DEEP = 1200
"""Levels; more than Python lets a function call itself."""


def test_directories_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    descriptor = os.open(tmp_path / "app", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(_DEEP):
            os.mkdir("d", dir_fd=descriptor)
            below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
            os.dup2(below, descriptor)
            os.close(below)
    finally:
        os.close(descriptor)
    with Rooted.local(tmp_path) as tree:
        first, rest = divide(tree, "/app", [["d/d"]])
    removal.remove(tmp_path / "app")  # pytest's own way of cleaning calls itself
    assert len(first.entries) == _DEEP + 1
    assert rest.entries == ()
