"""The release lines of Node.js: which have long-term support, when each ends, which npm goes with them.

Read from `releases.toml`, a snapshot. Called by `nodejs.buildpack`, `nodejs.schedule`, `nodejs.request` and
`nodejs.runtime`. Which versions exist is not here: the registry says that.
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Self

from packhorse.sdk.dataclass import dataclass

from . import ranges


@dataclass(frozen=True, slots=True)
class Line:
    """One major version; `codename` is empty outside long-term support, `ends` its last day with fixes."""

    major: int
    ends: date
    codename: str = ""


@dataclass(frozen=True, slots=True)
class Releases:
    """All lines, oldest first, and pairs of a range of Node.js versions and the npm that goes with it."""

    lines: tuple[Line, ...]
    npm: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls) -> Self:
        """Reads the table that comes with the buildpack."""
        table = tomllib.loads(Path(__file__).with_name("releases.toml").read_text())
        return cls(
            lines=tuple(Line(**line) for line in table["lines"]),
            npm=tuple((pair["node"], pair["version"]) for pair in table["npm"]),
        )

    @property
    def supported_long(self) -> tuple[Line, ...]:
        """The lines that are or were in long-term support, oldest first; the last is the active one."""
        return tuple(line for line in self.lines if line.codename)

    def line(self, version: str) -> Line | None:
        """The line of a version; None when it is newer than this table."""
        return next((line for line in self.lines if line.major == major(version)), None)

    def npm_for(self, version: str) -> str | None:
        """The npm that goes with a Node.js version; None when that is too old for any."""
        return next((npm for range_, npm in self.npm if ranges.allows(range_, version)), None)


def major(version: str) -> int:
    """The major number of a full version."""
    return int(version.partition(".")[0])
