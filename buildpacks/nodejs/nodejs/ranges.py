"""Ranges of versions as npm has them: plain ones are read here, and all others by node-semver.

Pure. Called by whoever asks whether a version is in a range. What manifests say is nearly always plain (`22`,
`^22.3.0`, `>=20 <23`, `18 || 20.x`), and to import node-semver takes as long as all else of a build in which
nothing has changed. Choosing one of many versions, which is seldom done, is node-semver's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

_Version = tuple[int, int, int]
_Bounds = tuple[_Version, _Version | None]
"""The first version that is in it, and the first one above that is not."""

_NONE: _Version = (0, 0, 0)
_ANY = ("*", "x", "X")
_OPERATORS = (">=", "<=", ">", "<", "^", "~")
_LONGEST = 9
"""Digits of a number that is read here."""


def allows(range_: str, version: str, *, loose: bool = False) -> bool:
    """Whether the range has the version."""
    sets, read = _sets(range_), _numbers(version)
    if sets is None or read is None or len(read) != 3:
        import nodesemver

        return bool(nodesemver.satisfies(version, range_, loose=loose))
    number = (read[0], read[1], read[2])
    return any(all(low <= number and (end is None or number < end) for low, end in one) for one in sets)


def is_range(text: str) -> bool:
    """Whether npm takes `text` for a range."""
    if _sets(text) is not None:
        return True
    import nodesemver

    return nodesemver.valid_range(text, loose=True) is not None


def is_version(text: str) -> bool:
    """Whether npm takes `text` for a version."""
    read = _numbers(text)
    if read is not None and len(read) == 3:
        return True
    import nodesemver

    return bool(nodesemver.valid(text, loose=True))


def _sets(text: str) -> list[list[_Bounds]] | None:
    """The alternatives of a range, of which each is what all its comparators allow; None if not plain."""
    sets = []
    for part in text.split("||"):
        bounds = [_bounds(word) for word in part.split(" ") if word]
        plain = [one for one in bounds if one is not None]
        if len(plain) != len(bounds):
            return None
        sets.append(plain)
    return sets


def _bounds(word: str) -> _Bounds | None:
    operator = next((one for one in _OPERATORS if word.startswith(one)), "")
    numbers = _numbers(word[len(operator) :])
    if numbers is None or (operator and not numbers) or (operator == "^" and numbers[0] == 0):
        return None
    if not numbers:
        return _NONE, None
    low = _padded(numbers)
    if operator == ">=":
        return low, None
    if operator == "<":
        return _NONE, low
    if operator == ">":
        return _after(numbers), None
    if operator == "<=":
        return _NONE, _after(numbers)
    if operator == "^":
        return low, _after(numbers[:1])
    return low, _after(numbers[:2] if operator == "~" else numbers)


def _numbers(text: str) -> Sequence[int] | None:
    """The numbers of `22`, `22.3`, `22.3.1` and `22.x`, none of `*`; None for anything else."""
    parts = text.split(".") if text else []
    if len(parts) > 3:
        return None
    while parts and parts[-1] in _ANY:
        del parts[-1]
    if not all(_is_number(part) for part in parts):
        return None
    return [int(part) for part in parts]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST and (text == "0" or text[0] != "0")


def _padded(numbers: Sequence[int]) -> _Version:
    major, minor, patch = (*numbers, 0, 0)[:3]
    return major, minor, patch


def _after(numbers: Sequence[int]) -> _Version:
    """The first version above all that begin with these numbers."""
    return _padded([*numbers[:-1], numbers[-1] + 1])
