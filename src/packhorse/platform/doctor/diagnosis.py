"""What `packhorse doctor` says, as values; made by the checks, put together by `doctor.checkup`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from packhorse.base.dataclass import dataclass

_COMMANDS_LEFT = "nothing can be built or run here; copy, inspect, images, rmi and gc work"


class State(Enum):
    """All of it is there; builds work with less; builds do not work."""

    OK = "ok"
    LIMITED = "limited"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Mend:
    """What `--fix` can do: put `files` (path and text) in place, then run commands as root, in order.

    If one of the commands fails, the files are taken away again.
    """

    title: str
    commands: tuple[tuple[str, ...], ...]
    files: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """The result of one check. `without` says what works all the same, `remedy` how to mend what is missing.

    Both are empty where the state is ok. `mend` is what `--fix` would do about it, where it can.
    `checkup` adds the name of the check.
    """

    state: State
    found: str
    without: str = ""
    remedy: str = ""
    mend: Mend | None = None
    name: str = ""


def ok_line(found: str) -> Line:
    """All is there."""
    return Line(State.OK, found)


def limited_line(found: str, without: str, remedy: str, mend: Mend | None = None) -> Line:
    """Builds work with less."""
    return Line(State.LIMITED, found, without, remedy, mend)


def missing_line(found: str, remedy: str, mend: Mend | None = None, *, without: str = _COMMANDS_LEFT) -> Line:
    """Builds do not work; without other words, what never starts a sandbox does."""
    return Line(State.MISSING, found, without, remedy, mend)
