"""The settings of a project for Yarn: .yarnrc.yml, and .yarnrc of Yarn 1.

On the arrow source → plan; a reader without side effects. Called by `yarnrelease`, `yarn` and `berry`, which
leave reading these files to Yarn itself but for the few settings that decide how it is to be run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from packhorse.sdk.dataclass import dataclass, field

BERRY, CLASSIC = ".yarnrc.yml", ".yarnrc"
_WORD = re.compile(r"""(?:"([^"]+)"|([\w.:@/-]+))\s+(?:"([^"]*)"|(\S+))\s*""")


@dataclass(frozen=True, slots=True)
class Settings:
    """The plain settings of the top level by name; lists and tables are left out."""

    berry: Mapping[str, str] = field(default_factory=dict)
    classic: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads what of the two files there is."""
        berry = (_scalar(line) for line in _lines(directory / BERRY))
        classic = (_WORD.fullmatch(line) for line in _lines(directory / CLASSIC))
        return cls(
            berry=dict(found for found in berry if found),
            classic={found[1] or found[2]: found[3] or found[4] or "" for found in classic if found},
        )

    @property
    def release(self) -> str:
        """The path of the Yarn that comes with the source, or nothing."""
        return self.berry.get("yarnPath", "") or self.classic.get("yarn-path", "")

    @property
    def linker(self) -> str:
        """How Yarn 2 and newer lay modules out: `pnp` unless the project chooses another way."""
        return self.berry.get("nodeLinker", "pnp")

    @property
    def cache(self) -> str:
        """Where below the project packages lie that come with the source."""
        return self.berry.get("cacheFolder", ".yarn/cache")


def _scalar(line: str) -> tuple[str, str] | None:
    """Name and value of a line such as `nodeLinker: pnp`, the value plain or quoted, a comment behind it."""
    name, _, said = line.partition(":")
    value = said.strip()
    if not name.isascii() or not name.isalpha() or not said[:1].isspace() or value[:1] in ("", "#"):
        return None
    if value[0] in "\"'":
        quoted, closing, behind = value[1:].partition(value[0])
        if closing and behind.strip()[:1] in ("", "#"):
            return name, quoted
    return name, value.partition("#")[0].rstrip()


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
