"""A hundred images in a registry on loopback get a new base, beside `pack rebase` of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.images import Images
from bench.measure import Finding, Run, environment, packhorse, peer, timed, together
from fakes.docker_registry import serve

_COUNT = 100
_BAR = 1 / 5


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Each image is in a repository of its own, without the new base; pack takes one at a time."""
    environ = environment(folder)
    pack = peer("pack")
    series: dict[str, list[Run]] = {"packhorse": []} | ({"pack": []} if pack else {})
    with serve(folder) as host:
        images = Images(host)
        for number in range(min(rounds, 3)):
            lines = folder / f"list{number}"
            lines.write_text("\n".join(images.make(f"ours{number}/app{n}" for n in range(_COUNT))))
            series["packhorse"].append(timed([*packhorse(), "rebase", "--publish", "--file", lines], environ))
            if pack:
                names = images.make(f"pack{number}/app{n}" for n in range(_COUNT))
                series["pack"].append(
                    together([timed([pack, "rebase", "--publish", name], environ) for name in names])
                )
    yield Finding(f"{_COUNT} images", series, bar=_BAR)
