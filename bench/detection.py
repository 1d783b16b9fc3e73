"""A hundred buildpacks are asked whether an application is theirs, and the last says no."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Finding, Run, packhorse, timed
from bench.seed import seeded
from fakes.shell_buildpack import shell_buildpack


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """One group, so that all are asked; the build ends there. Beside ten, as programs take time to start."""
    environ = seeded(folder)
    source = folder / "app"
    source.mkdir()
    (source / "any").touch()
    buildpacks = [shell_buildpack(folder / f"p{n}", f"bench/p{n}") for n in range(99)]
    refusing = shell_buildpack(folder / "last", "bench/last", detect="exit 100")
    series: dict[str, list[Run]] = {"100 buildpacks": [], "10 buildpacks": []}
    for number in range(min(rounds, 3) + 1):
        for name, count in (("100 buildpacks", 99), ("10 buildpacks", 9)):
            words = ["build", "bench/none", "--path", source, "--pull-policy", "never", "--network", "host"]
            for buildpack in (*buildpacks[:count], refusing):
                words += ["--buildpack", buildpack]
            # That no group fits is what has to come of it.
            command = ["sh", "-c", '"$@" || test $? = 20', "sh", *packhorse(), *words]
            took = timed(command, {**os.environ, **environ})
            series[name] += [took] if number else []
    yield Finding("detection, start to end", series)
