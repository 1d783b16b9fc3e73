"""A layer of 430 MB in 24,000 files is unpacked beside `tar -x`, an image with it beside `umoci unpack`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Finding, Run, environment, packhorse, peer, timed
from bench.modules import archives, tree


def run(folder: Path, *, rounds: int, quick: bool = False) -> Iterator[Finding]:
    """Each time into a new directory, which is removed before the next."""
    yield _layer(folder, rounds, quick)
    umoci = peer("umoci")
    if umoci and os.geteuid() == 0:
        yield _image(folder, rounds, umoci)


def _layer(folder: Path, rounds: int, quick: bool) -> Finding:
    tar, target = folder / "modules.tar", folder / "unpacked"
    shutil.rmtree(tree(folder, files=2_400 if quick else 24_000))
    ours = [sys.executable, "-m", "bench.work", "unpack", tar, target]
    other = ["sh", "-c", 'mkdir "$1" && tar --extract --file "$0" --directory "$1"', tar, target]
    series: dict[str, list[Run]] = {"packhorse": [], "tar -x": []}
    for _ in range(rounds):
        for name, command in zip(series, (ours, other), strict=True):
            series[name].append(timed(command, os.environ, folder=Path(__file__).parents[1]))
            shutil.rmtree(target)
    return Finding("one layer, a plain tar", series)


def _image(folder: Path, rounds: int, umoci: Path) -> Finding:
    """packhorse has a directory for each layer, umoci one for all."""
    first, _ = archives(folder)
    environ, layout = environment(folder), folder / "layout"
    subprocess.run(
        [*packhorse(), "copy", f"docker-archive:{first}", f"oci:{layout}:1"],
        env=environ,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    series: dict[str, list[Run]] = {"packhorse": [], "umoci unpack": []}
    for number in range(min(rounds, 3)):
        target = folder / f"plain-{number}"
        command = [sys.executable, "-m", "bench.work", "layout", layout, target]
        series["packhorse"].append(timed(command, environ, folder=Path(__file__).parents[1]))
        shutil.rmtree(target)
        bundle = folder / f"bundle-{number}"
        series["umoci unpack"].append(timed([umoci, "unpack", "--image", f"{layout}:1", bundle], environ))
        shutil.rmtree(bundle)
    return Finding("an image in an OCI layout, with gzip", series)
