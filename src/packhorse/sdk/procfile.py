"""Reads a Procfile: the processes of an application, one `type: command` a line.

Called by buildpacks. Follows Heroku's specification of the format for Cloud Native Buildpacks. A type has
letters, digits and hyphens; capital letters and underscores are corrected with a warning. Of several lines
for one type the last counts. The buildpack decides which program runs a command.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass, field
from packhorse.errors import InputError

NAME = "Procfile"

_LIMIT = 1 << 20
_LINE = re.compile(r"[ \t]*([^:\s]+)[ \t]*:[ \t]*(.*?)[ \t]*")
_TYPE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Procfile:
    """The commands by process type, in the order of the file; `warnings` name corrections."""

    commands: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Reads a file, with or without a byte order mark; None if it is missing.

        Raises InputError for a file that is not text, and as `parse`.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_LIMIT + 1)
        except FileNotFoundError:
            if path.is_symlink():
                raise _unreadable_error(path, f"it is a link that leads nowhere: {path.readlink()}") from None
            return None
        except OSError as error:
            raise _unreadable_error(path, error.strerror or "") from error
        if len(data) > _LIMIT:
            raise _unreadable_error(path, f"it is longer than {_LIMIT:,} bytes")
        # PowerShell's `>` writes UTF-16.
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        try:
            text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise _unreadable_error(path, f"it is not UTF-8 (byte {error.start})") from error
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a Procfile; raises InputError that lists every wrong line."""
        commands: dict[str, str] = {}
        warnings: list[str] = []
        issues: list[str] = []
        for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            name = match[1].replace("_", "-").lower() if match else ""
            if match is None:
                issues.append(f"line {number} has no `type: command`: {line.strip()}")
            elif not _TYPE.fullmatch(name):
                issues.append(f"line {number}: {match[1]} cannot be a process type")
            elif not match[2]:
                issues.append(f"line {number}: the process {match[1]} has no command")
            elif "\0" in match[2]:
                issues.append(f"line {number}: the command has a NUL character")
            else:
                if name != match[1]:
                    warnings.append(f"line {number}: the process type {match[1]} is read as {name}")
                if name in commands:
                    warnings.append(f"line {number} replaces an earlier line for the process {name}")
                commands[name] = match[2]
        if issues:
            raise InputError(
                f"the {NAME} cannot be used",
                issues=issues,
                fix="write one process a line, as in `web: node server.js`; a type has up to 63 letters, "
                "digits and hyphens, and begins and ends with a letter or digit",
            )
        if not commands:
            warnings.append("it names no process")
        return cls(commands, tuple(warnings))


def _unreadable_error(path: Path, why: str) -> InputError:
    return InputError(
        f"the {NAME} cannot be read", why=f"{path}: {why}", fix="save it as a text file in UTF-8"
    )
