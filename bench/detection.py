"""A hundred buildpacks are asked whether an application is theirs, and the last says no; beside ten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.builders import Builders
from bench.measure import Finding, Run, packhorse, timed
from bench.seed import seeded
from fakes.shell_buildpack import shell_buildpack

_COUNTS = (100, 10)
_REFUSES = "exit 100"

Words = Sequence[str | Path]


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """One group, so that all are asked; the build ends there. In a builder, and as directories."""
    environ = seeded(folder)
    source = folder / "app"
    source.mkdir()
    (source / "any").touch()
    builders = Builders(folder, environ)
    ways: dict[str, list[Words]] = {
        "in a builder": [["--builder", builders.make(count, refuses=True)] for count in _COUNTS],
        "directories": _directories(folder),
    }
    for title, asked in ways.items():
        series: dict[str, list[Run]] = {f"{count} buildpacks": [] for count in _COUNTS}
        for number in range(min(rounds, 3) + 1):
            for name, more in zip(series, asked, strict=True):
                words = [
                    "build",
                    "bench/none",
                    "--path",
                    source,
                    "--pull-policy",
                    "never",
                    "--network",
                    "host",
                ]
                # That no group fits is what has to come of it.
                command = ["sh", "-c", '"$@" || test $? = 20', "sh", *packhorse(), *words, *more]
                took = timed(command, environ)
                series[name] += [took] if number else []
        yield Finding(title, series)


def _directories(folder: Path) -> list[Words]:
    asked = []
    for count in _COUNTS:
        words: list[str | Path] = []
        for number in range(count):
            place = folder / f"p{count}-{number}"
            detect = _REFUSES if number == count - 1 else ""
            words += ["--buildpack", shell_buildpack(place, f"bench/p{number}", detect=detect)]
        asked.append(words)
    return asked
