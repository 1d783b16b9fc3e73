"""A hundred buildpacks are asked whether an application is theirs, and the last says no; beside ten."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.measure import Finding, Run, packhorse, timed
from bench.seed import seeded
from fakes import foreign_builder, tiny_root
from fakes.foreign_builder import Tar
from fakes.shell_buildpack import shell_buildpack
from packhorse.image.copy import put
from packhorse.image.docker_archive import DockerArchive
from packhorse.image.reference import Reference
from packhorse.image.view import Image

_COUNTS = (100, 10)
_RUN = "packhorse.local/bench/run:1"
_REFUSES = "exit 100"

Words = Sequence[str | Path]


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """One group, so that all are asked; the build ends there. In a builder, and as directories."""
    environ = seeded(folder)
    source = folder / "app"
    source.mkdir()
    (source / "any").touch()
    ways = {"in a builder": _in_builders(folder, environ), "directories": _directories(folder)}
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


def _in_builders(folder: Path, environ: Mapping[str, str]) -> list[Words]:
    layer = foreign_builder.base(tiny_root.make(folder / "root"))
    _into_store(foreign_builder.run_image(layer), folder / "run.tar", _RUN, environ)
    asked: list[Words] = []
    for count in _COUNTS:
        name = f"packhorse.local/bench/builder:{count}"
        _into_store(_builder(layer, count), folder / f"builder-{count}.tar", name, environ)
        asked.append(["--builder", name])
    return asked


def _builder(layer: bytes, count: int) -> Image:
    """A small builder with so many buildpacks."""
    tar, names = Tar(), [f"bench/p{number}" for number in range(count)]
    for name in names:
        top = f"cnb/buildpacks/{name.replace('/', '_')}"
        for directory in (top, f"{top}/1.0.0", f"{top}/1.0.0/bin"):
            tar.directory(directory)
        text = f'api = "0.10"\n\n[buildpack]\nid = "{name}"\nversion = "1.0.0"\n\n[[targets]]\nos = "linux"\n'
        tar.file(f"{top}/1.0.0/buildpack.toml", text)
        detect = f"#!/bin/sh\n{_REFUSES if name == names[-1] else ''}\n"
        tar.file(f"{top}/1.0.0/bin/detect", detect, mode=0o755)
        tar.file(f"{top}/1.0.0/bin/build", "#!/bin/sh\n", mode=0o755)
    group = [{"id": name, "version": "1.0.0"} for name in names]
    labels = {
        "io.buildpacks.buildpack.layers": json.dumps({name: {"1.0.0": {"api": "0.10"}} for name in names}),
        "io.buildpacks.buildpack.order": json.dumps([{"group": group}]),
    }
    order = "[[order]]\n" + "".join(f'[[order.group]]\nid = "{name}"\nversion = "1.0.0"\n' for name in names)
    tar.file("cnb/order.toml", order)
    return foreign_builder.builder_image(
        layer, run=_RUN, launcher=b"#!/bin/sh\n", above=[tar.close()], more=labels
    )


def _into_store(image: Image, archive: Path, name: str, environ: Mapping[str, str]) -> None:
    put(image, DockerArchive(archive, Reference.parse(name)))
    command = [*packhorse(), "copy", f"docker-archive:{archive}", name]
    subprocess.run(command, env=environ, check=True, capture_output=True)
