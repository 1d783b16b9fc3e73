"""Chooses the pnpm for a project, and provides it as a layer for the build.

Called by `managers`. package.json decides. If it leaves a choice, the lockfile and Node.js decide
(`pnpm.toml`). pnpm writes pnpm-lock.yaml itself and always in the same form, so only the keys of its first
two levels are read.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import versions
from ..project import Project
from ..runtime import ARCHITECTURES, Runtime
from . import port, tool
from .choice import Choice
from .tool import Package, Tool

NAME = "pnpm-lock.yaml"
_LOCK_VERSION = re.compile(r"""lockfileVersion:\s*['"]?(\d+(?:\.\d+)?)""")
_IMPORTER = re.compile(r"""  (?:'([^']+)'|"([^"]+)"|([^\s'"#][^'"]*)):\s*(?:\{\})?""")


@dataclass(frozen=True, slots=True)
class PnpmLock:
    """A lockfile: its `lockfileVersion`, and in `importers` the paths of the projects, `.` for the root.

    A lockfile of a single project may have no `importers`.
    """

    version: str
    importers: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Reads `directory`/pnpm-lock.yaml; None without one. Raises as `parse` does."""
        path = directory / NAME
        return cls.parse(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a lock; raises InputError for conflicts of a merge and for another file."""
        version = ""
        importers: list[str] = []
        part = ""
        port.refuse_merge_conflicts(
            text, name=NAME, fix=f"run `pnpm install`, which resolves them, and commit {NAME}"
        )
        for line in text.splitlines():
            if line[:1].strip() and line[0] != "#":
                part = line.partition(":")[0]
                found = _LOCK_VERSION.match(line)
                version = version or (found[1] if found else "")
            elif part == "importers" and (match := _IMPORTER.fullmatch(line)):
                importers.append(match[1] or match[2] or match[3])
        if not version:
            raise InputError(
                f"{NAME} has no lockfileVersion, so it is not a lock of pnpm's",
                fix=f"run `pnpm install` and commit {NAME}",
            )
        return cls(version, tuple(importers))


_NATIVE = 12


@dataclass(frozen=True, slots=True)
class ReleaseRange:
    """A range of versions of one `major`, of which the newest is used, and its source in words."""

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
        """Whether this pnpm runs on a version of Node.js."""
        return versions.allows(self.node, node, loose=True)

    def writes(self, lock: PnpmLock) -> bool:
        """Whether this pnpm writes lockfiles of this form."""
        return lock.version == self.lock or lock.version.startswith(f"{self.lock}.")


def provide_pnpm(
    context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice
) -> tuple[Tool, str]:
    """Makes or keeps the layer `pnpm`; returns it and its source in words.

    Raises InputError if no pnpm fits Node.js and the lockfile, and the errors of `tool.provide_tool`.
    """
    wanted = choose_release(PnpmLock.read(project.directory), choice, runtime.version)
    check_node(wanted.major, runtime.version)
    found = tool.provide_tool(context, _package(context, wanted.major), choice, range=wanted.range)
    return found, wanted.source


def choose_release(lock: PnpmLock | None, choice: Choice, node: str) -> ReleaseRange:
    """Chooses the range; InputError if package.json leaves a choice and no version fits."""
    if versions.is_version(choice.range):
        return ReleaseRange(choice.range, _lowest_major(choice.range), choice.source)
    fitting = [line for line in read_majors() if line.runs_on(node) and (not lock or line.writes(lock))]
    for line in fitting:
        if not choice.range:
            said = f"lockfileVersion {lock.version}" if lock else f"Node.js {node}"
            return ReleaseRange(str(line.major), line.major, f"{choice.source}; the one for {said}")
        if versions.allows(choice.range, f"{line.major}.999.999", loose=True):
            narrow = "||".join(
                f"{part} {line.major}".strip() for part in _normalize_range(choice.range).split("||")
            )
            return ReleaseRange(narrow, line.major, choice.source)
    if choice.range:
        return ReleaseRange(choice.range, _lowest_major(choice.range), choice.source)
    raise _no_release_error(lock, node)


def check_node(number: int, node: str) -> None:
    """Raises InputError for a major version of pnpm that does not run on this Node.js."""
    line = next((line for line in read_majors() if line.major == number), None)
    if line and not line.runs_on(node):
        raise InputError(
            f"pnpm {number} does not run on Node.js {node}",
            why=f"it needs Node.js {line.node}",
            fix="ask for a newer Node.js in package.json engines.node, or for another pnpm in packageManager",
        )


def read_majors() -> Iterator[Major]:
    """Reads the buildpack's own table, in its order."""
    table = tomllib.loads((Path(__file__).parents[1] / "pnpm.toml").read_text())
    return (Major(**line) for line in table["majors"])


def _no_release_error(lock: PnpmLock | None, node: str) -> InputError:
    writers = [line for line in read_majors() if lock and line.writes(lock)]
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
    """pnpm's package: JavaScript, and from 12 on also a native program for this architecture."""
    if number < _NATIVE:
        return Package("pnpm", {"pnpm": "bin/pnpm.cjs", "pnpx": "bin/pnpx.cjs"})
    arch = ARCHITECTURES.get(context.target.arch, context.target.arch)
    return Package("pnpm", {"pnpm": "pnpm", "pnpx": "pnpx"}, parts=(f"@pnpm/exe.linux-{arch}",))


def _normalize_range(range_: str) -> str:
    import nodesemver

    return str(nodesemver.make_range(range_, loose=True).range)


def _lowest_major(range_: str) -> int:
    """The major version that a range begins with."""
    number = range_.partition(".")[0]
    if number.isdigit() and versions.is_version(range_):
        return int(number)
    import nodesemver

    first = nodesemver.make_range(range_, loose=True).set[0][0]
    return int(getattr(first.semver, "major", 0) or 0)
