"""Which pnpm a project uses, as a layer of its own for the build.

On the arrows source → plan and plan → layers. Called by `managers.provide`. What package.json says is taken;
where that leaves a choice, the lock and Node.js make it (`pnpm.toml`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import ranges
from ..project import Project
from ..runtime import ARCHITECTURES, Runtime
from . import tool
from .choice import Choice
from .pnpmlock import NAME, Lock
from .tool import Package, Tool

_NATIVE = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """A range of versions of one `major` of which to take the newest, and its source in words."""

    range: str
    major: int
    source: str


@dataclass(frozen=True, slots=True)
class Major:
    """A major version, the range of Node.js versions that it runs on, and the locks that it writes."""

    major: int
    node: str
    lock: str

    def runs_on(self, node: str) -> bool:
        """Whether it runs on a version of Node.js."""
        return ranges.allows(self.node, node, loose=True)

    def writes(self, lock: Lock) -> bool:
        """Whether it writes locks like this one."""
        return lock.version == self.lock or lock.version.startswith(f"{self.lock}.")


def provide(
    context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice
) -> tuple[Tool, str]:
    """Makes or keeps the layer `pnpm`; returns it and its source in words.

    Raises InputError where no pnpm fits Node.js and the lock, and what `tool.provide` raises.
    """
    wanted = choose(Lock.read(project.directory), choice, runtime.version)
    check(wanted.major, runtime.version)
    found = tool.provide(context, _package(context, wanted.major), choice, range=wanted.range)
    return found, wanted.source


def choose(lock: Lock | None, choice: Choice, node: str) -> Wanted:
    """What to look for; raises InputError where package.json leaves it open and nothing fits."""
    if ranges.is_version(choice.range):
        return Wanted(choice.range, _lowest(choice.range), choice.source)
    fitting = [line for line in majors() if line.runs_on(node) and (not lock or line.writes(lock))]
    for line in fitting:
        if not choice.range:
            said = f"lockfileVersion {lock.version}" if lock else f"Node.js {node}"
            return Wanted(str(line.major), line.major, f"{choice.source}; the one for {said}")
        if ranges.allows(choice.range, f"{line.major}.999.999", loose=True):
            narrow = "||".join(f"{part} {line.major}".strip() for part in _text(choice.range).split("||"))
            return Wanted(narrow, line.major, choice.source)
    if choice.range:
        return Wanted(choice.range, _lowest(choice.range), choice.source)
    raise _nothing_fits(lock, node)


def check(number: int, node: str) -> None:
    """Raises InputError for a major version of pnpm that does not run on this Node.js."""
    line = next((line for line in majors() if line.major == number), None)
    if line and not line.runs_on(node):
        raise InputError(
            f"pnpm {number} does not run on Node.js {node}",
            why=f"it needs Node.js {line.node}",
            fix="ask for a newer Node.js in package.json engines.node, or for another pnpm in packageManager",
        )


def majors() -> Iterator[Major]:
    """The table that comes with the buildpack, in its order."""
    table = tomllib.loads((Path(__file__).parents[1] / "pnpm.toml").read_text())
    return (Major(**line) for line in table["majors"])


def _nothing_fits(lock: Lock | None, node: str) -> InputError:
    writers = [line for line in majors() if lock and line.writes(lock)]
    if lock and not writers:
        return InputError(
            f"{NAME} has lockfileVersion {lock.version}, which no pnpm that this buildpack knows writes",
            fix='name the pnpm that wrote it in package.json: "packageManager": "pnpm@<version>"',
        )
    why = f"{NAME} is of pnpm {writers[0].major}, which needs Node.js {writers[0].node}" if writers else ""
    return InputError(
        f"no pnpm runs on Node.js {node} and reads the lock" if lock else f"no pnpm runs on Node.js {node}",
        why=why,
        fix="ask for a newer Node.js in package.json engines.node",
    )


def _package(context: sdk.BuildContext, number: int) -> Package:
    """pnpm's package: JavaScript, and with it from 12 on a program for this architecture."""
    if number < _NATIVE:
        return Package("pnpm", {"pnpm": "bin/pnpm.cjs", "pnpx": "bin/pnpx.cjs"})
    arch = ARCHITECTURES.get(context.target.arch, context.target.arch)
    return Package("pnpm", {"pnpm": "pnpm", "pnpx": "pnpx"}, parts=(f"@pnpm/exe.linux-{arch}",))


def _text(range_: str) -> str:
    import nodesemver

    return str(nodesemver.make_range(range_, loose=True).range)


def _lowest(range_: str) -> int:
    """The major version that a range begins with."""
    number = range_.partition(".")[0]
    if number.isdigit() and ranges.is_version(range_):
        return int(number)
    import nodesemver

    first = nodesemver.make_range(range_, loose=True).set[0][0]
    return int(getattr(first.semver, "major", 0) or 0)
