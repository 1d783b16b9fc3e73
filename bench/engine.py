"""An image goes into a container engine, all new and with one small layer changed, beside `pack`; needs root.

What `pack` needs is what its lifecycle says that exporting took, from layers that are built to an image in
the engine: without detecting, building, containers and caches. packhorse has the same image in its store.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import applications
from bench.applications import Application
from bench.measure import Failed, Finding, Run, environment, packhorse, peer, timed
from bench.modules import archives
from bench.packages import registry
from bench.programs import BUILDER, PACK_ENVIRONMENT, loaded, pack_build
from bench.seed import seeded
from fakes.engine import Engine, dockerd

_BARS = {"pack": 0.5}
_STEPS = ("all new", "one small layer")
_NAME = "bench/app"
_TOOK = re.compile(r"Timer: Exporter ran for (?:(\d+)m)?([\d.]+)(ms|s)")


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all of it stands on; the engine is empty but for base images."""

    engine: Engine
    environ: Mapping[str, str]
    folder: Path

    def programs(self, number: int, archive: Path) -> dict[str, list[str | Path]]:
        """What puts the image into the engine, as `bench/app:NUMBER`."""
        name = f"{_NAME}:{number}"
        found: dict[str, list[str | Path]] = {
            "packhorse": [*packhorse(), "copy", name, f"docker-daemon:{name}"],
            "docker load": ["docker", "load", "--quiet", "--input", archive],
        }
        if skopeo := peer("skopeo"):
            words = [skopeo, "--insecure-policy", "copy", "--quiet"]
            words.append(f"--dest-daemon-host={self.engine.address}")
            found["skopeo"] = [*words, f"docker-archive:{archive}:{name}", f"docker-daemon:{name}"]
        return found

    def copy(self, source: str, destination: str) -> None:
        """By packhorse, for nothing."""
        command = [*packhorse(), "--quiet", "copy", source, destination]
        subprocess.run(command, env=dict(self.environ), check=True, stdout=subprocess.DEVNULL)

    def measure(self, images: tuple[Path, Path], took: dict[str, dict[str, list[Run]]]) -> None:
        """Each program puts both images there, the second beside the first, and both are removed."""
        for program in self.programs(0, images[0]):
            for number, (step, archive) in enumerate(zip(_STEPS, images, strict=True)):
                run = timed(self.programs(number, archive)[program], self.environ)
                took[step].setdefault(program, []).append(run)
            self.clear()

    def clear(self) -> None:
        """The application's images go, layers and all."""
        self.engine.docker("rmi", "--force", *(f"{_NAME}:{number}" for number in range(len(_STEPS))))


def run(folder: Path, *, rounds: int, quick: bool = False) -> Iterator[Finding]:
    """Each round begins with an engine that has the base image alone."""
    if os.geteuid() or not shutil.which("dockerd"):
        print("  an engine needs root and dockerd: left out", flush=True)
        return
    builder = os.environ.get(BUILDER)
    pack = peer("pack") if builder else None
    with ExitStack() as stack:
        (folder / "engine").mkdir()
        engine = stack.enter_context(dockerd(folder / "engine"))
        if not pack or not builder:
            print(f"  pack: not on PATH, or no builder ({BUILDER}=ARCHIVE)", flush=True)
            ground = _Ground(engine, {**environment(folder), "DOCKER_HOST": engine.address}, folder)
            yield from _generated(ground, min(rounds, 3))
            return
        ground = _Ground(engine, {**seeded(folder), "DOCKER_HOST": engine.address}, folder)
        address = stack.enter_context(registry(folder / "shelf"))
        built = _Pack(pack, ground, _loaded(ground, builder))
        for packages in (38, 65) if quick else (380, 656):
            application = applications.modules(packages)
            source = application.make(folder / "origin", folder / "shelf", address)
            yield from _built(ground, built, application, source, min(rounds, 3))


def _generated(ground: _Ground, rounds: int) -> Iterator[Finding]:
    """Without pack there is no application: generated layers instead."""
    images = archives(ground.folder)
    for number, archive in enumerate(images):
        ground.copy(f"docker-archive:{archive}", f"{_NAME}:{number}")
        ground.copy(f"docker-archive:{archive}", f"docker-archive:{archive}:{_NAME}:{number}")
    took: dict[str, dict[str, list[Run]]] = {step: {} for step in _STEPS}
    for _ in range(rounds):
        ground.measure(images, took)
    for step, series in took.items():
        yield Finding(f"430 MB, {step}", series, bars=_BARS)


@dataclass(frozen=True, slots=True)
class _Pack:
    """pack with a trusted builder of this name."""

    program: Path
    ground: _Ground
    builder: str

    def exported(self, source: Path, number: int, home: str) -> Run:
        """How long the export of a build took; `home` is a name, which it has from build to build."""
        words = [self.program, *pack_build(source, f"bench/{home}", self.builder), "--verbose"]
        environ = {**self.ground.environ, **PACK_ENVIRONMENT}
        done = subprocess.run([*map(str, words)], env=environ, capture_output=True, text=True)
        said = _TOOK.search(done.stdout + done.stderr)
        if done.returncode or said is None:
            raise Failed(f"pack failed: {(done.stdout + done.stderr)[-2000:]}")
        self.ground.engine.docker("tag", f"bench/{home}", f"{_NAME}:{number}")
        minutes, figure, unit = said.groups()
        return Run(int(minutes or 0) * 60 + float(figure) / (1000 if unit == "ms" else 1), 0, 0)


def _built(
    ground: _Ground, pack: _Pack, application: Application, source: Path, rounds: int
) -> Iterator[Finding]:
    """pack builds it, and again with another line in its source; the others get the two images that it has
    made the first time.
    """
    took: dict[str, dict[str, list[Run]]] = {step: {} for step in _STEPS}
    images = (ground.folder / "first.tar", ground.folder / "second.tar")
    for turn in range(rounds):
        for number, step in enumerate(_STEPS):
            application.line(source, number)
            home = f"{application.name}-{turn}"
            run = pack.exported(source, number, home)
            took[step].setdefault("pack", []).append(run)
            if not turn:
                name = f"{_NAME}:{number}"
                ground.engine.docker("save", "--output", str(images[number]), name)
                ground.copy(f"docker-daemon:{name}", name)
        ground.engine.docker("rmi", f"bench/{home}")
        ground.clear()
        ground.engine.docker("volume", "prune", "--force")
        ground.measure(images, took)
    size = application.title.partition(" in ")[0]
    for step, series in took.items():
        ours = {"packhorse": series.pop("packhorse")}
        yield Finding(f"{size}, {step}", ours | series, bars=_BARS)


def _loaded(ground: _Ground, archive: str) -> str:
    """The builder's name in the engine, which also gets the run image."""
    said = subprocess.run(
        [*packhorse(), "builder", "default"],
        env=dict(ground.environ),
        check=True,
        capture_output=True,
        text=True,
    )
    run_image = said.stdout.strip().replace("/builder:", "/run:")
    ground.copy(run_image, f"docker-daemon:{run_image}")
    return loaded(ground.engine, archive)
