"""Reads TOML that people and buildpacks write, and reports every issue with its line.

A parser makes a `Table` with `read`, asks it for the keys of its format, and calls `finish`. That raises
one error with all issues, and warns of every key that the parser did not ask for. `base.go_toml` writes TOML.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.errors import FormatError, InputError

LIMIT = 1 << 20
"""The largest TOML file read, in bytes."""

DEPTH = 100
"""How many levels of tables and arrays a file may have."""

Warn = Callable[[str], None]
"""Receives one warning: a line with the file, the line number and the key."""

_BOM = b"\xef\xbb\xbf"
_DIGITS = 40
_ISSUES = 50  # nobody reads more
_ISSUE_LENGTH = 400

# Every repetition is possessive, so that matching never backtracks.
_PART = r"""(?:"(?:[^"\\\n]++|\\[^\n])*+"|'[^'\n]*+'|[A-Za-z0-9_-]++)"""
_KEYS = rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+"
_PARTS = re.compile(_PART)
_GAP = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_HEADER = re.compile(rf"(\[\[?)[ \t]*+({_KEYS})[ \t]*+\]\]?")
_KEY = re.compile(rf"({_KEYS})[ \t]*+=")
_VALUE = re.compile(
    r"""(?P<many>\"""(?:[^"\\]++|\\[\s\S]|"(?!""))*+"{0,5}|\'\'\'(?:[^']++|'(?!''))*+'{0,5})"""
    rf"""|(?P<keys>{_KEYS})|(?P<open>[\[{{])|(?P<close>[\]}}])|(?P<newline>\n)"""
    # Quotes match here only at the start of an unterminated string.
    r"""|(?:[#'][^\n]*+|"(?:[^\\\n]++|\\[^\n])*+|[^\n\[\]{}"'#A-Za-z0-9_-]++)"""
)

Path = tuple[str | int, ...]
Lines = Mapping[Path, Mapping[Path, int]]
"""The line of every key, by the header above it and the path below the header; () is the header itself."""


@dataclass(slots=True)
class Table:
    """One TOML table. `source` names the file in messages. Sub-tables share `issues`, `warn` and
    `tables_read`. `known` maps the keys that were asked for to the format's spelling.
    """

    values: Mapping[str, Any]
    source: str
    path: Path = ()
    lines: Lines = field(default_factory=dict)
    issues: list[str] = field(default_factory=list)
    warn: Warn | None = None
    tables_read: list[Table] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, data: bytes, source: str, warn: Warn | None = None) -> Self:
        """Parses a whole file, without its UTF-8 byte order mark.

        Raises InputError for invalid TOML, a file over 1 MiB and more than 100 levels. `finish` warns of
        unknown keys through `warn`.
        """
        if len(data) > LIMIT:
            raise InputError(
                f"{source} is too large", why=f"it has {len(data)} bytes, at most {LIMIT} are read"
            )
        try:
            text = data.removeprefix(_BOM).decode()
            # This refuses deep keys, for which tomllib takes time that grows with the square of the depth.
            lines = _find_lines(text)
            values = tomllib.loads(text)
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            why = f"line {line} has bytes that are not UTF-8"
            raise InputError(f"{source} is not UTF-8 text", why=why, fix="save it as UTF-8") from error
        except RecursionError as error:
            raise _depth_error(source) from error
        except ValueError as error:  # TOMLDecodeError, or int()'s error for thousands of digits
            raise InputError(f"{source} is not valid TOML", why=str(error)) from error
        if _is_too_deep(values):
            raise _depth_error(source)
        top = cls(values, source, lines=lines, warn=warn)
        top.tables_read.append(top)
        return top

    def finish(self) -> None:
        """Raises InputError with every issue, if there is one. Else it warns of keys that were not asked for,
        and of keys whose capitals differ from the format's.
        """
        if self.issues:
            raise InputError(f"{self.source} cannot be used", issues=self.issues)
        if self.warn is None:
            return
        warnings = [warning for table in self.tables_read for warning in table._warnings()]
        for warning in dict.fromkeys(warnings[:_ISSUES]):
            self.warn(warning)
        if len(warnings) > _ISSUES:
            self.warn(f"{self.source}: there are more")

    def add_issue(self, text: str, key: str = "", *below: str | int) -> None:
        """Notes that something is wrong, at `key` where it is given, or at the path `below` that."""
        if len(self.issues) >= _ISSUES:
            self.issues[_ISSUES:] = [f"{self.source}: there are more"]
            return
        self.issues.append(self.locate(text, key, *below))

    def add_warning(self, text: str, key: str) -> None:
        """Warns of `key`, which is read and has no effect."""
        if self.warn is not None:
            self.warn(self.locate(text, key))

    def locate(self, text: str, key: str = "", *below: str | int) -> str:
        """`text` after the file and the line of `key`, or of what is `below` it, or of this table."""
        path = (*self.path, self._find_spelling(key) or key, *below) if key else self.path
        # Parts of a value have no line of their own. The line of the value is the nearest.
        line = None
        while path and line is None:
            line, path = self._find_line(path), path[:-1]
        text = text if len(text) <= _ISSUE_LENGTH else f"{text[:_ISSUE_LENGTH]}…"
        return f"{self.source}:{line}: {text}" if line else f"{self.source}: {text}"

    def has(self, key: str) -> bool:
        """Whether the table has `key`."""
        return self._find_key(key) is not None

    def allow_keys(self, *keys: str) -> None:
        """Accepts keys that the format has and this program does not read, so that `finish` is silent."""
        for key in keys:
            self._find_key(key)

    def text(self, key: str, *, required: bool = False) -> str:
        """Returns a string, "" if absent. A `required` string must not be empty."""
        value = self._get(key, str, "a string", required=required)
        if required and value == "":
            self.add_issue(f"{self.full_key(key)} is empty", key)
        return value if isinstance(value, str) else ""

    def flag(self, key: str) -> bool:
        """Returns a boolean, False if absent."""
        return self._get(key, bool, "true or false") is True

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns an array of strings, empty if absent."""
        value = self._get(key, list, "a list of strings") or []
        if not all(isinstance(item, str) for item in value):
            self.add_issue(f"{self.full_key(key)} must be a list of strings", key)
            return ()
        return tuple(value)

    def table(self, key: str) -> Table:
        """Returns a sub-table, empty if absent."""
        value = self._get(key, dict, "a table")
        return self._subtable(value if isinstance(value, dict) else {}, key)

    def tables(self, key: str) -> tuple[Table, ...]:
        """Returns an array of tables, empty if absent."""
        words = f"an array of tables ([[{self.full_key(key)}]])"
        value = self._get(key, list, words) or []
        if not all(isinstance(item, dict) for item in value):
            self.add_issue(f"{self.full_key(key)} must be {words}", key)
            return ()
        return tuple(self._subtable(item, key, index) for index, item in enumerate(value))

    def mapping(self, key: str, *, finite: bool = False) -> Mapping[str, Any]:
        """Returns a table with any content, empty if absent. TOML allows integers of 64 bits only.

        `finite` refuses infinity and NaN, which JSON cannot express.
        """
        value = self._get(key, dict, "a table")
        if not isinstance(value, dict):
            return {}
        for path, number in _walk_numbers(value):
            words = ".".join(map(str, (self.full_key(key), *path)))
            if isinstance(number, int) and not -(1 << 63) <= number < 1 << 63:
                self.add_issue(f"{words} is {_shorten(number)}, which does not fit 64 bits", key, *path)
            elif finite and not math.isfinite(number):
                self.add_issue(
                    f"{words} is {number}, and a label of an image can hold no such number", key, *path
                )
        return value

    def _find_line(self, path: Path) -> int | None:
        found = (self.lines.get(path[:at], {}).get(path[at:]) for at in range(len(path) + 1))
        line = next((line for line in found if line is not None), None)
        # A table without its own header, or one of several, has the line of the first table below it.
        headers = (at for at in self.lines if at[: len(path)] == path)
        below = (self.lines[header].get(()) for header in headers)
        return line or min((each for each in below if each), default=None)

    def _subtable(self, values: Mapping[str, Any], key: str, *index: int) -> Table:
        table = Table(
            values,
            self.source,
            (*self.path, self._find_spelling(key) or key, *index),
            self.lines,
            self.issues,
            self.warn,
            self.tables_read,
        )
        if self.warn is not None:
            self.tables_read.append(table)
        return table

    def full_key(self, key: str) -> str:
        """Returns `key` after the names of the tables that contain it."""
        return ".".join(part for part in (*self.path, key) if isinstance(part, str))

    def _find_key(self, key: str) -> str | None:
        """Returns the spelling of `key` in this file, None if it is absent.

        `Launch` is read as `launch`, because the reference's TOML decoder ignores case if no key matches
        exactly.
        """
        found = self._find_spelling(key)
        if found is not None:
            self.known[found] = key
        return found

    def _find_spelling(self, key: str) -> str | None:
        if key in self.values or not self.values:
            return key if self.values else None
        return next((name for name in self.values if name.lower() == key), None)

    def _warnings(self) -> list[str]:
        found = []
        for name in self.values:
            key = self.known.get(name)
            if key is None:
                text = f"{self.full_key(name)} is not a key of this file and is ignored"
                found.append(self.locate(text, name))
            elif name != key:
                text = f"{self.full_key(name)} is read as {key}, which is how this key is spelled"
                found.append(self.locate(text, name))
        return found

    def _get(self, key: str, kind: type, words: str, *, required: bool = False) -> Any:
        name = self._find_key(key)
        value = None if name is None else self.values[name]
        if value is None:
            if required:
                self.add_issue(f"{self.full_key(key)} is missing")
            return None
        if not isinstance(value, kind):
            self.add_issue(f"{self.full_key(key)} must be {words}", key)
            return None
        return value


def decode(data: bytes, source: str) -> dict[str, Any]:
    """Parses TOML that a program wrote. Raises FormatError, because no user can correct the file."""
    try:
        return dict(Table.read(data, source).values)
    except InputError as error:
        raise FormatError(error.what, why=error.why) from error


def _walk_numbers(values: Mapping[str, Any]) -> Iterator[tuple[Path, int | float]]:
    """Yields every number at any depth with its path."""
    waiting: list[tuple[Path, Any]] = [((), values)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += (((*path, name), item) for name, item in value.items())
        elif isinstance(value, list):
            waiting += (((*path, index), item) for index, item in enumerate(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def _shorten(number: int) -> str:
    try:
        text = str(number)
    except ValueError:  # thousands of digits
        return "an integer"
    return text if len(text) <= _DIGITS else f"{text[:_DIGITS]}…"


def _is_too_deep(values: Mapping[str, Any]) -> bool:
    """Whether `values` has more than DEPTH levels. Dotted keys can make them without recursion in tomllib."""
    level: list[Any] = [values]
    for _ in range(DEPTH + 1):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def _depth_error(source: str) -> InputError:
    return InputError(f"{source} is nested too deeply", why=f"{DEPTH} levels are read")


def _find_lines(text: str) -> Lines:
    """Finds the line of each table header and key, up to the first syntax error.

    Raises RecursionError for keys and values that are nested too deeply.
    """
    lines: dict[Path, dict[Path, int]] = {}
    counts: dict[Path, int] = {}
    here: Path = ()
    at, number = 0, 1
    while gap := _GAP.match(text, at):
        number += gap[0].count("\n")
        at = gap.end()
        if match := _HEADER.match(text, at):
            here = _enter(_split_key(match[2]), counts, array=match[1] == "[[")
            lines.setdefault(here, {}).setdefault((), number)
            at = match.end()
        elif match := _KEY.match(text, at):
            lines.setdefault(here, {}).setdefault(_split_key(match[1]), number)
            at, passed = _skip_value(text, match.end())
            number += passed
        else:
            break
    return lines


def _skip_value(text: str, at: int) -> tuple[int, int]:
    """Returns where the value that begins at `at` ends, and how many newlines it contains."""
    depth = passed = 0
    while match := _VALUE.match(text, at):
        match match.lastgroup:
            case "newline" if depth <= 0:
                break
            case "newline" | "many":
                passed += match[0].count("\n")
            case "open":
                depth += 1
            case "close":
                depth -= 1
            case "keys":
                _split_key(match[0])
        if depth > DEPTH:
            raise RecursionError
        at = match.end()
    return at, passed


def _enter(parts: tuple[str, ...], counts: dict[Path, int], *, array: bool) -> Path:
    path: Path = ()
    for index, part in enumerate(parts):
        path = (*path, part)
        last = index == len(parts) - 1
        if last and array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _split_key(name: str) -> tuple[str, ...]:
    parts = _PARTS.findall(name)
    if len(parts) > DEPTH + 1:
        raise RecursionError
    return tuple(part.strip("\"'") for part in parts)
