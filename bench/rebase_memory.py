"""Memory for a thousand images beside that for a hundred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.images import Images
from bench.measure import Finding, environment, packhorse, timed
from fakes.docker_registry import serve

_REPOSITORIES = 20
_BAR = 1.1


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Tags of twenty repositories; once each, as memory hardly varies."""
    environ = environment(folder)
    with serve(folder) as host:
        images = Images(host)
        series = {}
        for count in (1000, 100):
            images.make((f"of{count}/app{n}" for n in range(_REPOSITORIES)), tags=count // _REPOSITORIES - 1)
            series[f"{count} images"] = [
                timed([*packhorse(), "rebase", "--all", f"{host}/of{count}/"], environ)
            ]
    yield Finding("the most memory", series, unit="MB", value=lambda run: run.memory / 1e6, bar=_BAR)
