"""Reading TOML that people and buildpacks write: typed look-ups that know their line and collect every issue.

A parser makes a `Table` with `read`, asks it for what the format allows, and calls `finish`, which raises one
error with all that was wrong. Called by source, buildpack and lifecycle. Writing is `base.gotoml`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from packhorse.errors import FormatError, InputError

LIMIT = 1 << 20
"""The largest TOML file read, in bytes."""

DEPTH = 100
"""How deep tables and arrays may be nested in each other."""

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Table:
    """One TOML table being read. `source` names the file in messages; `issues` is shared by all its
    sub-tables.
    """

    values: Mapping[str, Any]
    source: str
    path: Path = ()
    lines: Mapping[Path, int] = field(default_factory=dict)
    issues: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, data: bytes, source: str) -> Self:
        """Parses a whole file; raises InputError, with the line where there is one, for what is not TOML, is
        over 1 MiB, or is nested deeper than 100 levels.
        """
        if len(data) > LIMIT:
            raise InputError(
                f"{source} is too large", why=f"it has {len(data)} bytes, at most {LIMIT} are read"
            )
        try:
            text = data.decode()
            values = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is not UTF-8 text", why=str(error)) from error
        except RecursionError as error:
            raise InputError(f"{source} is nested too deeply", why=f"{DEPTH} levels are read") from error
        except ValueError as error:  # TOMLDecodeError, and what int() says of thousands of digits
            raise InputError(f"{source} is not valid TOML", why=str(error)) from error
        if _is_deep(values):
            raise InputError(f"{source} is nested too deeply", why=f"{DEPTH} levels are read")
        return cls(values, source, lines=_positions(text))

    def finish(self) -> None:
        """Raises InputError with every issue noted so far, if there is one."""
        if self.issues:
            raise InputError(f"{self.source} cannot be used", issues=self.issues)

    def issue(self, text: str, key: str = "") -> None:
        """Notes that something is wrong, at `key` where it is given."""
        path = (*self.path, key) if key else self.path
        # What stands inside a value has no line of its own: that of the value is the nearest.
        while path and path not in self.lines:
            path = path[:-1]
        line = self.lines.get(path)
        self.issues.append(f"{self.source}:{line}: {text}" if line else f"{self.source}: {text}")

    def has(self, key: str) -> bool:
        """Whether `key` is there at all."""
        return key in self.values

    def text(self, key: str, *, required: bool = False) -> str:
        """A string, "" when absent; a `required` one must not be empty."""
        value = self._get(key, str, "a string", required=required)
        if required and value == "":
            self.issue(f"{self._spell(key)} is empty", key)
        return value if isinstance(value, str) else ""

    def flag(self, key: str) -> bool:
        """A boolean, False when absent."""
        return self._get(key, bool, "true or false") is True

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings, empty when absent."""
        value = self._get(key, list, "a list of strings") or []
        if not all(isinstance(item, str) for item in value):
            self.issue(f"{self._spell(key)} must be a list of strings", key)
            return ()
        return tuple(value)

    def table(self, key: str) -> Table:
        """A sub-table, empty when absent."""
        value = self._get(key, dict, "a table")
        return self._sub(value if isinstance(value, dict) else {}, key)

    def tables(self, key: str) -> tuple[Table, ...]:
        """An array of tables, empty when absent."""
        value = self._get(key, list, f"an array of tables ([[{key}]])") or []
        if not all(isinstance(item, dict) for item in value):
            self.issue(f"{self._spell(key)} must be an array of tables ([[{key}]])", key)
            return ()
        return tuple(self._sub(item, key, index) for index, item in enumerate(value))

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A table of whatever its writer liked, empty when absent."""
        value = self._get(key, dict, "a table")
        return value if isinstance(value, dict) else {}

    def _sub(self, values: Mapping[str, Any], *path: str | int) -> Table:
        return Table(values, self.source, (*self.path, *path), self.lines, self.issues)

    def _spell(self, key: str) -> str:
        return ".".join(part for part in (*self.path, key) if isinstance(part, str))

    def _get(self, key: str, kind: type, words: str, *, required: bool = False) -> Any:
        value = self.values.get(key)
        if value is None:
            if required:
                self.issue(f"{self._spell(key)} is missing")
            return None
        if not isinstance(value, kind):
            self.issue(f"{self._spell(key)} must be {words}", key)
            return None
        return value


def decode(data: bytes, source: str) -> dict[str, Any]:
    """The plain values of a TOML file that a program wrote; raises FormatError, for it is no user's to
    mend.
    """
    try:
        return dict(Table.read(data, source).values)
    except InputError as error:
        raise FormatError(error.what, why=error.why) from error


def _is_deep(values: Mapping[str, Any]) -> bool:
    """Whether `values` has more than DEPTH levels; dotted keys reach any depth without the parser's help."""
    level: list[Any] = [values]
    for _ in range(DEPTH + 1):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def _positions(text: str) -> dict[Path, int]:
    """The line of each table header and key; best effort, for messages only (multi-line values are stepped
    over).
    """
    lines: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    here: Path = ()
    quote = ""
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        if quote:
            if line.count(quote) % 2:
                quote = ""
            continue
        if depth == 0 and (match := _HEADER.match(line)):
            here = _enter(match[2], counts, array=match[1] == "[[")
            lines.setdefault(here, number)
            continue
        rest = line
        if depth == 0 and (match := _KEY.match(line)):
            lines.setdefault((*here, *_parts(match[1])), number)
            rest = line[match.end() :]
        quote = next((mark for mark in ('"""', "'''") if rest.count(mark) % 2), "")
        bare = re.sub(r""""(?:\\.|[^"\\])*"|'[^']*'|#.*""", "", rest)
        depth = max(0, depth + bare.count("[") + bare.count("{") - bare.count("]") - bare.count("}"))
    return lines


def _enter(name: str, counts: dict[Path, int], *, array: bool) -> Path:
    path: Path = ()
    parts = _parts(name)
    for index, part in enumerate(parts):
        path = (*path, part)
        last = index == len(parts) - 1
        if last and array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(name))
