"""yarn.lock: which Yarn it belongs to, and what it settles.

On the arrow source → plan; a reader without side effects. Called by `yarnrelease`, `yarn` and `berry`. Yarn 1
and its successors give the file the same name; of neither form is more read here than its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from packhorse.errors import InputError

NAME = "yarn.lock"
_CONFLICT = re.compile(r"(?:<<<<<<<|=======|>>>>>>>)(?: |$)")
_METADATA = re.compile(r"__metadata:\s*$")
_FIELD = re.compile(r"""\s+(version|cacheKey|resolution):? +"?([^"]*)"?\s*$""")

_DESCRIPTOR = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",\s:][^",\s]*)')


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock settles: descriptors (`ms@^2.1.0`) and the resolution of each, empty in those of Yarn 1.

    `form` is empty for a file without entries, `version` and `cache_key` are of the newer form alone.
    """

    form: Literal["classic", "berry", ""] = ""
    version: int = 0
    cache_key: str = ""
    settled: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `directory`/yarn.lock, there or not; raises InputError for one with conflicts of a merge."""
        path = directory / NAME
        return cls.parse(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else cls()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a lock."""
        metadata: dict[str, str] = {}
        settled: dict[str, str] = {}
        names: list[str] = []
        is_berry = False
        for number, line in enumerate(text.splitlines(), 1):
            if _CONFLICT.match(line):
                raise InputError(
                    f"{NAME} has conflicts of a merge, the first on line {number}",
                    fix=f"run `yarn install`, which resolves them, and commit {NAME}",
                )
            if not line.strip() or line.startswith("#"):
                continue
            if not line[0].isspace():
                is_metadata = bool(_METADATA.match(line))
                is_berry = is_berry or is_metadata
                names = [] if is_metadata else list(_descriptors(line))
                settled |= dict.fromkeys(names, "")
            elif found := _FIELD.match(line):
                if not names:
                    metadata.setdefault(found[1], found[2])
                elif found[1] == "resolution":
                    settled |= dict.fromkeys(names, found[2])
        version = metadata.get("version", "")
        return cls(
            form="berry" if is_berry else "classic" if settled or "yarn lockfile v1" in text else "",
            version=int(version) if version.isdecimal() else 0,
            cache_key=re.split(r"\D", metadata.get("cacheKey", ""))[0],
            settled=settled,
        )

    def lacks(self, newer: Lock) -> list[str]:
        """The descriptors that `newer`, of the same source, had to settle itself or settles otherwise."""
        return [name for name, said in newer.settled.items() if self.settled.get(name) != said]


def _descriptors(line: str) -> Iterator[str]:
    """The descriptors of a line such as `"a@^1", b@2:` or `"a@npm:^1, a@npm:1.2.0":`."""
    for quoted, plain in _DESCRIPTOR.findall(line.rstrip().removesuffix(":")):
        for name in (quoted or plain).split(", "):
            if name.strip() and name.strip() != "?":
                yield name.strip()
