"""Builders with 10 and 40 small buildpacks build an unchanged application, and 100 are asked; beside `pack`.

Both use the same builder image. The scripts of the buildpacks also run as plain processes, one after the
other, to show what a builder adds to them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.bars import PROCESSES
from bench.builders import Builders, Lifecycle
from bench.measure import Finding, Run, environment, packhorse, peer, timed
from bench.programs import BUILDER, PACK_ENVIRONMENT, pack_build
from fakes.engine import dockerd
from fakes.shell_buildpack import shell_buildpack

_COUNTS = (10, 40)
_ASKED = 100
_OFFLINE = ("--pull-policy", "never", "--network", "host")
_UNCHANGED = 0.6  # of what pack takes
_NONE_FITS = "20"  # packhorse's exit code when no group of buildpacks fits
_BUILD = """
if [ ! -d "$CNB_LAYERS_DIR/data" ]; then
    mkdir "$CNB_LAYERS_DIR/data"
    head --bytes=100000 /dev/zero > "$CNB_LAYERS_DIR/data/small"
fi
printf '[types]\\nlaunch = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/data.toml"
"""
_PLAIN = """
for buildpack in "$0"/*; do
    export CNB_LAYERS_DIR="$1/${buildpack##*/}"
    "$buildpack/bin/detect" && "$buildpack/bin/build"
done
"""


@dataclass(frozen=True, slots=True)
class _Pack:
    """pack, and the engine that has the builders."""

    program: Path
    process: int
    environ: Mapping[str, str]


def run(folder: Path, *, rounds: int, quick: bool = False) -> Iterator[Finding]:
    """The programs take turns. The first round warms up and is not counted."""
    environ = environment(folder)
    source = folder / "app"
    source.mkdir()
    (source / "any").touch()
    pack, archive = peer("pack"), os.environ.get(BUILDER)
    if not (pack and archive and os.geteuid() == 0 and shutil.which("dockerd")):
        print(f"  pack: needs root, dockerd, pack on PATH and a builder ({BUILDER}=ARCHIVE)", flush=True)
        pack = None
    builders = Builders(
        folder, environ, lifecycle=Lifecycle.read(Path(archive)) if pack and archive else None
    )
    counts = _COUNTS[:1] if quick else _COUNTS
    made = {count: builders.make(count, build=_BUILD) for count in counts}
    asked = builders.make(_ASKED, refuses=True)
    with ExitStack() as stack:
        engine = None
        if pack:
            (folder / "engine").mkdir()
            running = stack.enter_context(dockerd(folder / "engine"))
            for path in builders.archives:
                running.docker("load", "--input", str(path))
            variables = {**environ, **PACK_ENVIRONMENT, "DOCKER_HOST": running.address}
            engine = _Pack(pack, int((folder / "engine/dockerd.pid").read_text()), variables)
        took: dict[str, dict[str, list[Run]]] = {}
        for number in range(rounds + 1):
            for count, builder in made.items():
                runs = _build(folder, source, builder, environ, engine)
                runs[PROCESSES] = _plain(folder, count, environ)
                _note(took, f"{count} buildpacks: nothing changed", runs, number)
            _note(took, f"{_ASKED} buildpacks: asked", _ask(source, asked, environ, engine), number)
    for title, series in took.items():
        yield Finding(title, series, bars={"pack": 1.0 if title.endswith("asked") else _UNCHANGED})


def _note(took: dict[str, dict[str, list[Run]]], title: str, runs: Mapping[str, Run], number: int) -> None:
    for name, each in runs.items():
        took.setdefault(title, {}).setdefault(name, []).extend([each] if number else [])


def _build(
    folder: Path, source: Path, builder: str, environ: Mapping[str, str], pack: _Pack | None
) -> dict[str, Run]:
    """A build of each program. The first round has built the application before."""
    image = f"bench/{builder.rpartition(':')[2]}:1"
    words = ["build", image, "--path", source, "--builder", builder, *_OFFLINE]
    runs = {"packhorse": timed([*packhorse(), *words], environ)}
    if pack:
        command = [pack.program, *pack_build(source, image, builder)]
        runs["pack"] = timed(command, pack.environ, engine=pack.process)
    return runs


def _plain(folder: Path, count: int, environ: Mapping[str, str]) -> Run:
    """All `bin/detect` and `bin/build`, without a builder."""
    place, layers = folder / f"buildpacks-{count}", folder / f"layers-{count}"
    if not place.exists():
        for number in range(count):
            shell_buildpack(place / f"p{number}", f"bench/p{number}", build=_BUILD)
            (layers / f"p{number}").mkdir(parents=True)
    return timed(["sh", "-ec", _PLAIN, place, layers], environ)


def _ask(source: Path, builder: str, environ: Mapping[str, str], pack: _Pack | None) -> dict[str, Run]:
    """Builds that end after detection, since the last buildpack says no."""
    words = ["build", "bench/none", "--path", source, "--builder", builder, *_OFFLINE]
    runs = {"packhorse": timed(_failing(_NONE_FITS, *packhorse(), *words), environ)}
    if pack:
        command = _failing("1", pack.program, *pack_build(source, "bench/none", builder))
        runs["pack"] = timed(command, pack.environ, engine=pack.process)
    return runs


def _failing(code: str, *command: str | Path) -> list[str | Path]:
    """The command must end with this exit code."""
    return ["sh", "-c", '"$@"; test $? = "$0"', code, *command]
