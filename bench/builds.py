"""Three applications are built, and built again after what developers change, by each program there is."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import applications
from bench.applications import OLD, Application
from bench.bars import NPM
from bench.bases import Bases, bases, node_package
from bench.measure import Failed, Finding, Run, environment, peer, timed, together
from bench.packages import registry
from bench.programs import Program, programs
from bench.seed import seeded

_AGAIN = 3  # how often what takes no time is measured in a round
_LONG = 5.0  # seconds that are not no time
_BARS = {"nothing changed": {"pack": 1 / 12, "docker": 1.0}, "one source line": {"pack": 1 / 12}}
_MANY_BARS = {**_BARS, "nothing changed": {"pack": 1 / 70, "docker": 1.0}}


@dataclass(slots=True)
class _Round:
    """A round of one application: each program has its own copy of the source."""

    application: Application
    number: int
    folder: Path
    shelf: Path
    took: dict[str, dict[str, list[Run]]]
    until: float
    broken: set[str] = field(default_factory=set)

    def source(self, name: str) -> Path:
        """The copy of a program."""
        return self.folder / name

    def step(self, title: str, found: list[Program], change: Callable[[Path], None] | None, act: str) -> None:
        """Every program in turn, again where that is cheap; when it is late packhorse alone."""
        for repeat in range(_AGAIN if title in ("nothing changed", "one source line") else 1):
            for program in found:
                runs = self.took[title].setdefault(program.name, [])
                late = time.monotonic() > self.until and program is not found[0]
                if late or program.name in self.broken or (repeat and runs and runs[-1].seconds > _LONG):
                    continue
                place = self.source(program.name)
                if change:
                    change(place)
                if title == "one source line":
                    self.application.line(place, self.number * 10 + repeat)
                image = _image(program, self.application, self.number)
                try:
                    if act == "rebase":
                        runs.append(program.onto_patched(place, image))
                    else:
                        runs.append(program.build(place, image, fresh=act == "fresh"))
                except Failed as failure:
                    print(f"  {program.name}, {title}: {failure}", flush=True)
                    self.broken.add(program.name)
        told = ", ".join(
            f"{name} {runs[-1].seconds:.2f} s" for name, runs in self.took[title].items() if runs
        )
        print(f"  {self.application.title}, {title}, {self.number + 1}: {told}", flush=True)


def run(folder: Path, *, rounds: int, quick: bool = False, until: float = math.inf) -> Iterator[Finding]:
    """A round is each application, each step of it by each program in turn; the many modules every second."""
    if not peer("npm"):
        return
    environ = seeded(folder)
    chosen = [
        applications.express(),
        applications.files(3_000 if quick else 30_000),
        applications.modules(60 if quick else 656),
    ]
    with ExitStack() as stack:
        shelf = folder / "shelf"
        address = stack.enter_context(registry(shelf))
        ground = bases(folder / "bases", address, environ)
        found = stack.enter_context(programs(folder, ground, environ))
        print(f"  measured: {', '.join(program.name for program in found)}", flush=True)
        origins = {one.name: one.make(folder / "origin", shelf, address) for one in chosen}
        _warm(folder, origins, ground, found)
        took: dict[str, dict[str, dict[str, list[Run]]]] = {one.name: {} for one in chosen}
        for number in range(rounds):
            for application in chosen:
                late = number and time.monotonic() > until
                if late or (number % 2 and application.name.startswith("modules")):
                    continue
                here = folder / f"round-{application.name}-{number}"
                turn = _Round(application, number, here, shelf, took[application.name], until)
                for _ in _steps(turn, origins[application.name], found, ground):
                    yield from _findings(application, turn.took, last=False)
                _clear(turn, found)
        for application in chosen:
            yield from _findings(application, took[application.name], last=True)


def _image(program: Program, application: Application, number: int) -> str:
    """A name of its own for each, as some share an engine; and for each round, to begin with nothing."""
    return f"bench/{program.name}-{application.name}-{number}:1"


def _clear(turn: _Round, found: list[Program]) -> None:
    shutil.rmtree(turn.folder)
    for program in found:
        program.forget(_image(program, turn.application, turn.number))


def _steps(turn: _Round, origin: Path, found: list[Program], ground: Bases) -> Iterator[None]:
    """Yields after each, as one may take minutes."""
    for program in found:
        subprocess.run(["cp", "-a", origin, _made(turn.folder) / program.name], check=True)
    for title in ("cold", "nothing changed", "one source line", "one dependency added"):
        turn.took.setdefault(title, {})
    turn.step("cold", found, None, "fresh")
    cache = turn.folder / "npm-cache"
    npm = [
        _npm(turn.folder, origin, ground, cache, *words) for words in (_runtime(ground), ("ci", "--omit=dev"))
    ]
    turn.took["cold"].setdefault(NPM, []).append(together(npm))
    yield
    turn.step("nothing changed", found, None, "build")
    yield
    turn.step("one source line", found, None, "build")
    yield
    turn.step("one dependency added", found, lambda place: Application.dependency(place, turn.shelf), "build")
    more = turn.folder / "more"
    subprocess.run(["cp", "-a", origin, more], check=True)
    Application.dependency(more, turn.shelf)
    npm = [_npm(turn.folder, more, ground, cache)]
    turn.took["one dependency added"].setdefault(NPM, []).append(together(npm))
    yield
    turn.took.setdefault("newer Node.js", {})
    turn.step("newer Node.js", found, Application.runtime, "build")
    yield
    turn.took.setdefault("patched base image", {})
    # On its Node.js of before: what is measured is the base alone.
    turn.step("patched base image", found, _older, "rebase")
    yield


def _older(place: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        path = place / name
        path.write_text(path.read_text().replace(f'"node": "{applications.NEW}"', f'"node": "{OLD}"'))


def _runtime(ground: Bases) -> tuple[str, ...]:
    """The words for npm with which the buildpack fetches Node.js and npm."""
    npm = json.loads((ground.node[OLD] / "lib/node_modules/npm/package.json").read_text())["version"]
    return ("pack", f"{node_package()}@{OLD}", f"npm@{npm}")


def _npm(folder: Path, source: Path, ground: Bases, cache: Path, *words: str) -> Run:
    """What npm itself takes, for the modules or with other words, with the cache of its last time."""
    place = folder / "npm-alone"
    place.mkdir()
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(source / name, place)
    environ = environment(folder) | {"PATH": f"{ground.node[OLD] / 'bin'}:/usr/bin:/bin"}
    command = [ground.node[OLD] / "bin/npm", *(words or ("ci", "--omit=dev")), f"--cache={cache}"]
    try:
        return timed(command, environ, folder=place)
    finally:
        shutil.rmtree(place)


def _warm(folder: Path, origins: Mapping[str, Path], ground: Bases, found: list[Program]) -> None:
    """Once for nothing, so that the registry has all packages, and every program its builder unpacked."""
    for origin in origins.values():
        cache = folder / "warm-cache"
        _npm(folder, origin, ground, cache)
        shutil.rmtree(cache)
    for program in found:
        image = f"bench/{program.name}-warm:1"
        program.build(origins["express"], image, fresh=True)
        program.forget(image)


def _findings(
    application: Application, took: Mapping[str, Mapping[str, list[Run]]], *, last: bool
) -> Iterator[Finding]:
    bars = _MANY_BARS if application.name.startswith("modules") else _BARS
    for title, series in took.items():
        there = {name: list(runs) for name, runs in series.items() if runs}
        if "packhorse" in there:
            yield Finding(f"{application.title}: {title}", there, bars=bars.get(title, {}), last=last)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder
