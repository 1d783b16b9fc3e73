"""A home with packhorse's default builder, for scenarios that build. Called by them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench.measure import environment, packhorse
from fakes.installation import Home

HOME = "PACKHORSE_BENCH_HOME"
"""The variable that names a PACKHORSE_HOME with the default builder, to begin with a copy of its images."""


def seeded(folder: Path) -> dict[str, str]:
    """An environment whose home has the default builder; made, unless there is one to begin with."""
    environ = environment(folder)
    seed = os.environ.get(HOME)
    if seed:
        Home(Path(packhorse()[0]), Path(seed)).clone(Path(environ["PACKHORSE_HOME"]))
    subprocess.run([*packhorse(), "builder", "default"], env=environ, check=True, capture_output=True)
    return environ
