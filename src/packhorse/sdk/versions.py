"""Reads version files: which version a source asks for, and where. Lists the newest versions for messages.

Called by buildpacks. Here a version is text. The buildpack decides what it means (a range, a release line).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import InputError

_NUMBERS = re.compile("[0-9]+")
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class RequestedVersion:
    """A version as the source writes it, and the place: `.tool-versions line 3`."""

    version: str
    source: str


def read_variable(env: Mapping[str, str], name: str) -> RequestedVersion | None:
    """The version in a variable, stripped; None without one."""
    version = env.get(name, "").strip()
    return RequestedVersion(version, name) if version else None


def read_file(path: Path) -> RequestedVersion | None:
    """The first version in a file like `.node-version`; None without one."""
    return next(iter(read_lines(path)), None)


def read_lines(path: Path) -> tuple[RequestedVersion, ...]:
    """Every version in a file with one on each line, like `.python-version`; `#` begins a comment."""
    return tuple(RequestedVersion(text, f"{path.name} line {number}") for number, text in _lines(path))


def read_tool_versions(path: Path, *names: str) -> RequestedVersion | None:
    """The version in `.tool-versions` for a tool, by any of its names; of several, the first.

    None if there is no such file, or the tool is not in it.
    """
    for number, text in _lines(path):
        name, *versions = text.split()
        if name in names and versions:
            return RequestedVersion(versions[0], f"{path.name} line {number}")
    return None


def newest_per_line(versions: Iterable[str], *, parts: int = 1) -> tuple[str, ...]:
    """The newest version of each line, newest line first. With `parts` 1, 22.3.1 and 22.1 are one line.

    Versions with letters, such as release candidates, are left out.
    """
    lines: dict[tuple[int, ...], str] = {}
    for version in sorted({text for text in versions if _is_numeric(text)}, key=_numbers):
        lines[_numbers(version)[:parts]] = version
    return tuple(lines[line] for line in sorted(lines, reverse=True))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers. Raises InputError for a file that is not text."""
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "" if isinstance(error, OSError) else f"it is not UTF-8 (byte {error.start})"
        raise InputError(f"{path.name} cannot be read", why=why, fix="write one version into it") from error
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield number, said


def _is_numeric(text: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number[:18]) for number in _NUMBERS.findall(text))
