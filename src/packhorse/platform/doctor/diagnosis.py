"""What `packhorse doctor` says, as values; made by the checks, put together by `doctor.checkup`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from packhorse.base.dataclass import dataclass


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
    """What was found of one thing. `without` says what works all the same, `remedy` how it is mended.

    Both are empty where the state is ok. `mend` is what `--fix` would do about it, where it can.
    """

    name: str
    state: State
    found: str
    without: str = ""
    remedy: str = ""
    mend: Mend | None = None
