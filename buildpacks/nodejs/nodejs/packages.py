"""The list `packages` of pnpm-workspace.yaml, of which this reads nothing else.

On the arrow source → plan; pure. Called by `nodejs.members`. YAML has many forms; of those that are not read
here none is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packhorse.errors import InputError

NAME = "pnpm-workspace.yaml"
_KEY = re.compile(r"""(?:packages|"packages"|'packages')[ \t]*:(?=[ \t]|$)""")
_TEXT = re.compile(r""""([^"\\]*)"|'([^']*)'""")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
# What begins something else than plain text.
_SPECIAL = tuple("&*!|>%@`{}[],?:'\"")
# How a document begins that is no plain table with its keys at the start of lines.
_OTHER = (*_SPECIAL[:10], "- ", " ", "\t")


def read(text: str) -> tuple[str, ...]:
    """The patterns in `text`; raises InputError, with the line, for a form that is not read."""
    lines = text.removeprefix("\ufeff").splitlines()
    first = next((line for line in lines if line.strip() and line[0] not in "#%" and line[:3] != "---"), "")
    if first.startswith(_OTHER) and first.strip()[0] != "#":
        raise _not_read(lines.index(first) + 1, first)
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("?") or re.match(r'"[^"]*\\', line):
            raise _not_read(number, line)
        if match := _KEY.match(line):
            rest = _COMMENT.sub("", line[match.end() :]).strip()
            while not rest.strip() and number < len(lines) and lines[number].strip()[:1] in ("", "#", "["):
                rest = _COMMENT.sub("", lines[number]).strip()
                number += 1
            found += _flow(rest, lines, number) if rest.startswith("[") else _block(rest, lines, number)
    return tuple(found)


def _block(rest: str, lines: Sequence[str], number: int) -> Iterator[str]:
    """The items on the lines behind line `number`, which has the key and `rest`."""
    if _COMMENT.sub("", rest).strip() not in ("", "null", "~"):
        raise _not_read(number, lines[number - 1])
    for place, line in enumerate(lines[number:], number + 1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        if said.startswith("- "):
            yield _item(said[2:].strip(), place, line)
        elif line[0] in " \t" or said == "-":
            raise _not_read(place, line)
        else:
            return


def _item(said: str, number: int, line: str) -> str:
    if match := _TEXT.match(said):
        value, said = match[1] or match[2] or "", said[match.end() :]
        if _COMMENT.sub("", said).strip():
            raise _not_read(number, line)
        return value
    value = _COMMENT.sub("", said).strip()
    if not value or value.startswith((*_SPECIAL, "- ")) or ": " in value or value.endswith(":"):
        raise _not_read(number, line)
    return value


def _flow(rest: str, lines: Sequence[str], number: int) -> Iterator[str]:
    """The items between brackets, on line `number` or on several."""
    said = rest[1:]
    separated = True
    while True:
        said = said.lstrip()
        if not said or said.startswith("#"):
            if number == len(lines):
                raise _not_read(number, lines[-1])
            said = lines[number]
            number += 1
        elif said[0] == "]":
            if _COMMENT.sub("", said[1:]).strip():
                raise _not_read(number, lines[number - 1])
            return
        elif said[0] == "," and not separated:
            said, separated = said[1:], True
        else:
            match = _TEXT.match(said) or re.match(r"[^,\[\]{}#]+", said)
            if not match or not separated:
                raise _not_read(number, lines[number - 1])
            yield _item(match[0].strip(), number, lines[number - 1])
            said, separated = said[match.end() :], False


def _not_read(number: int, line: str) -> InputError:
    return InputError(
        f"{NAME} is not understood on line {number}",
        why=line.strip(),
        fix="write `packages:` and below it an item on each line, as in `  - 'apps/*'`",
    )
