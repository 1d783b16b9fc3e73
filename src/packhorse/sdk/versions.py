"""Version files: what a source asks for, and where it says so; and the list of what there is, for a message.

Called by buildpacks. What a version means (a range, a name of a release line) is the buildpack's: here a
version is text.
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
    """A version as its source spells it, and the source in words: `.tool-versions line 3`."""

    version: str
    source: str


def read_variable(env: Mapping[str, str], name: str) -> RequestedVersion | None:
    """The version that a variable has, without the space and newline around it; None when there is none."""
    version = env.get(name, "").strip()
    return RequestedVersion(version, name) if version else None


def read_file(path: Path) -> RequestedVersion | None:
    """The first version of a file like `.node-version`; None when there is no file or nothing in it."""
    return next(iter(read_lines(path)), None)


def read_lines(path: Path) -> tuple[RequestedVersion, ...]:
    """Every version of a file with one a line, as `.python-version` may have; `#` begins a comment."""
    return tuple(RequestedVersion(text, f"{path.name} line {number}") for number, text in _lines(path))


def read_tool_versions(path: Path, *names: str) -> RequestedVersion | None:
    """The version that `.tool-versions` has for a tool, by any of its names; the first of several.

    None when there is no such file, or the tool is not in it.
    """
    for number, text in _lines(path):
        name, *versions = text.split()
        if name in names and versions:
            return RequestedVersion(versions[0], f"{path.name} line {number}")
    return None


def newest_per_line(versions: Iterable[str], *, parts: int = 1) -> tuple[str, ...]:
    """The newest version of each line, newest line first: `parts` 1 takes 22.3.1 and 22.1 for one line.

    Versions with letters (release candidates, for instance) are left out.
    """
    lines: dict[tuple[int, ...], str] = {}
    for version in sorted({text for text in versions if _is_numeric(text)}, key=_numbers):
        lines[_numbers(version)[:parts]] = version
    return tuple(lines[line] for line in sorted(lines, reverse=True))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers; InputError for a file that is no text."""
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
