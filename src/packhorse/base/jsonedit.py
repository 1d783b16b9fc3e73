"""JSON text in which one member is set or taken away while every other byte stays as it was.

Called by `image.authfile`, for files that belong to other programs as well. Reading values is not here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from packhorse.base.dataclass import dataclass

_SPACE = re.compile(r"[ \t\r\n]*")
_INDENTED = re.compile(r"\n([ \t]+)\"")
_decoder = json.JSONDecoder(strict=False)


@dataclass(frozen=True, slots=True)
class _Member:
    """Where in the text a member of an object stands: its name, its value, and where that ends."""

    name: str
    start: int
    value: int
    end: int


def with_member(text: str, path: Sequence[str], value: object) -> str:
    """The text with `value` at `path`; the objects on the way there are made where they are missing.

    `text` is one JSON object, and every value on the way is one or null; new lines are indented as the others
    are.
    """
    unit = found[1] if (found := _INDENTED.search(text)) else "\t"
    position = _after_space(text, 0)
    for depth, name in enumerate(path):
        members = _members(text, position)
        known = [member for member in members if member.name == name]
        if known and depth + 1 < len(path) and text.startswith("null", known[-1].value):
            # Go writes a map so that was never made.
            return with_member(f"{text[: known[-1].value]}{{}}{text[known[-1].end :]}", path, value)
        if not known:
            for missing in reversed(path[depth + 1 :]):
                value = {missing: value}
            return _inserted(text, position, members, _written(name, value, unit, depth + 1), unit, depth)
        position = known[-1].value
    end = known[-1].end
    return text[:position] + _dumped(value, unit, len(path)) + text[end:]


def without_member(text: str, path: Sequence[str]) -> str:
    """The text without the member at `path`, which must be there."""
    position = _after_space(text, 0)
    for name in path[:-1]:
        position = next(member.value for member in _members(text, position) if member.name == name)
    members = _members(text, position)
    index = next(index for index, member in enumerate(members) if member.name == path[-1])
    if index:
        return text[: members[index - 1].end] + text[members[index].end :]
    if len(members) > 1:
        return text[: members[0].start] + text[members[1].start :]
    return text[: position + 1] + text[_after_space(text, members[0].end) :]


def _members(text: str, position: int) -> list[_Member]:
    """The members of the object that begins at `position`."""
    members: list[_Member] = []
    position = _after_space(text, position + 1)
    while text[position] != "}":
        start = position
        name, position = _decoder.raw_decode(text, position)
        value = _after_space(text, _after_space(text, position) + 1)
        _, end = _decoder.raw_decode(text, value)
        members.append(_Member(name, start, value, end))
        position = _after_space(text, end)
        if text[position] == ",":
            position = _after_space(text, position + 1)
    return members


def _inserted(
    text: str, position: int, members: Sequence[_Member], written: str, unit: str, depth: int
) -> str:
    if not members:
        close = _after_space(text, position + 1)
        inner, outer = f"\n{unit * (depth + 1)}", f"\n{unit * depth}"
        return f"{text[: position + 1]}{inner}{written}{outer}{text[close:]}"
    before = text[: members[-1].start]
    space = before[len(before.rstrip(" \t\r\n")) :]
    end = members[-1].end
    return f"{text[:end]},{space}{written}{text[end:]}"


def _written(name: str, value: object, unit: str, depth: int) -> str:
    return f"{json.dumps(name)}: {_dumped(value, unit, depth)}"


def _dumped(value: object, unit: str, depth: int) -> str:
    return json.dumps(value, indent=unit).replace("\n", f"\n{unit * depth}")


def _after_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # it matches nothing as well
    return match.end()
