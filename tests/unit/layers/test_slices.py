"""How an application directory is divided, beyond what the reference's figures show."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from packhorse.base.rooted import Rooted
from packhorse.layers.slices import divide

_DEEP = 150


def test_directories_may_be_nested_deeper_than_functions(tmp_path: Path) -> None:
    (tmp_path / "app" / "/".join("d" * _DEEP)).mkdir(parents=True)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + _DEEP - 20)
    try:
        with Rooted.local(tmp_path) as tree:
            first, rest = divide(tree, "/app", [["d/d"]])
    finally:
        sys.setrecursionlimit(before)
    assert len(first.entries) == _DEEP + 1
    assert rest.entries == ()
