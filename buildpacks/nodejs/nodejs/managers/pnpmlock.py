"""pnpm-lock.yaml: its version, and the projects of which it settles the dependencies.

On the arrow source → plan; a reader without side effects. Called by `pnpmrelease` and `pnpm`. pnpm writes the
file itself and always in the same form; no more is read here than the keys of its first two levels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from . import conflict

NAME = "pnpm-lock.yaml"
_VERSION = re.compile(r"""lockfileVersion:\s*['"]?(\d+(?:\.\d+)?)""")
_IMPORTER = re.compile(r"""  (?:'([^']+)'|"([^"]+)"|([^\s'"#][^'"]*)):\s*(?:\{\})?""")


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock: `version` as `lockfileVersion` has it, `importers` the paths of the projects, `.` for the root.

    A lock of one project alone may leave these out.
    """

    version: str
    importers: tuple[str, ...] = ()

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Reads `directory`/pnpm-lock.yaml; None where there is none. Raises as `parse` does."""
        path = directory / NAME
        return cls.parse(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a lock; raises InputError for conflicts of a merge and for another file."""
        version = ""
        importers: list[str] = []
        part = ""
        conflict.refuse(text, name=NAME, fix=f"run `pnpm install`, which resolves them, and commit {NAME}")
        for line in text.splitlines():
            if line[:1].strip() and line[0] != "#":
                part = line.partition(":")[0]
                found = _VERSION.match(line)
                version = version or (found[1] if found else "")
            elif part == "importers" and (match := _IMPORTER.fullmatch(line)):
                importers.append(match[1] or match[2] or match[3])
        if not version:
            raise InputError(
                f"{NAME} has no lockfileVersion, so it is not a lock of pnpm's",
                fix=f"run `pnpm install` and commit {NAME}",
            )
        return cls(version, tuple(importers))
