"""One image in a registry on loopback gets a new base: the whole process, beside `pack rebase`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.images import Images
from bench.measure import Finding, Run, environment, packhorse, peer, timed
from fakes.docker_registry import serve

_BAR = 2.0


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Each run has an image of its own, in a repository that has nothing of the new base."""
    environ = environment(folder)
    pack = peer("pack")
    with serve(folder) as host:
        images = Images(host)
        ours = images.make(f"ours/app{number}" for number in range(rounds + 1))
        theirs = images.make(f"pack/app{number}" for number in range(rounds + 1))
        series: dict[str, list[Run]] = {"packhorse": []} | ({"pack": []} if pack else {})
        # The first of each only warms up.
        for number in range(rounds + 1):
            took = {"packhorse": timed([*packhorse(), "rebase", "--publish", ours[number]], environ)}
            if pack:
                took["pack"] = timed([pack, "rebase", "--publish", theirs[number]], environ)
            for name, runs in series.items():
                runs += [took[name]] if number else []
    yield Finding("one image", series, bar=_BAR)
