"""A layer of 430 MB in 24,000 files is packed and hashed, beside `tar | sha256sum`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Finding, Run, timed
from bench.modules import tree

_BAR = 1 / 0.8  # of the speed of tar and sha256sum at least 80 %


def run(folder: Path, *, rounds: int, quick: bool = False) -> Iterator[Finding]:
    """Both read all files once; which are in memory after the first time, as after a build."""
    source = tree(folder, files=2_400 if quick else 24_000)
    ours = [sys.executable, "-m", "bench.work", "export", source]
    other = ["sh", "-c", 'tar --create --directory "$0" . | sha256sum', source]
    series: dict[str, list[Run]] = {"packhorse": [], "tar | sha256sum": []}
    root = Path(__file__).parents[1]
    for number in range(rounds + 1):
        for name, command in zip(series, (ours, other), strict=True):
            took = timed(command, os.environ, folder=root)
            series[name] += [took] if number else []
    yield Finding("one layer", series, bar=_BAR)
