"""yarn.lock: which Yarn it belongs to, and what it settles.

On the arrow source → plan; a reader without side effects. Called by `yarnrelease`, `yarn` and `berry`. Yarn 1
and its successors give the file the same name; of neither form is more read here than its keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

from packhorse.sdk.dataclass import dataclass, field

from . import conflict

NAME = "yarn.lock"
_METADATA = "__metadata:"
_FIELDS = ("version", "cacheKey", "resolution")
# A quote that is not closed goes on to the end of the line.
_DESCRIPTOR = re.compile(r'"((?:[^"\\]|\\.)*)"?|([^",\s:][^",\s]*)')


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
        conflict.refuse(text, name=NAME, fix=f"run `yarn install`, which resolves them, and commit {NAME}")
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if not line[0].isspace():
                is_metadata = line.rstrip() == _METADATA
                is_berry = is_berry or is_metadata
                names = [] if is_metadata else list(_descriptors(line))
                settled |= dict.fromkeys(names, "")
            elif found := _field(line):
                name, value = found
                if not names:
                    metadata.setdefault(name, value)
                elif name == "resolution":
                    settled |= dict.fromkeys(names, value)
        version = metadata.get("version", "")
        return cls(
            form="berry" if is_berry else "classic" if settled or "yarn lockfile v1" in text else "",
            version=int(version[:9]) if version.isdecimal() else 0,
            cache_key=re.split(r"\D", metadata.get("cacheKey", ""))[0],
            settled=settled,
        )

    def lacks(self, newer: Lock) -> list[str]:
        """The descriptors that `newer`, of the same source, had to settle itself or settles otherwise."""
        return [name for name, said in newer.settled.items() if self.settled.get(name) != said]


def _field(line: str) -> tuple[str, str] | None:
    """Name and value of a line such as `  version: 8` or `  version "1.2.3"`, if it is one that is read."""
    name, _, rest = line.strip().partition(" ")
    name, value = name.removesuffix(":"), rest.strip()
    if value[:1] == '"':
        value = value[1:].removesuffix('"')
    return (name, value) if name in _FIELDS and value and '"' not in value else None


def _descriptors(line: str) -> Iterator[str]:
    """The descriptors of a line such as `"a@^1", b@2:` or `"a@npm:^1, a@npm:1.2.0":`."""
    for quoted, plain in _DESCRIPTOR.findall(line.rstrip().removesuffix(":")):
        for name in (quoted or plain).split(", "):
            if name.strip() and name.strip() != "?":
                yield name.strip()
