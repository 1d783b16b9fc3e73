"""Prints the messages of a phase, and the output of buildpacks as it comes.

Messages go to standard output and errors to standard error, as the reference prints them. `-log-level`
decides which are printed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from packhorse.errors import PackhorseError, UsageError

LEVELS = ("debug", "info", "warn", "error")
"""The values of -log-level, from the most messages to the fewest."""

_HEADINGS = {
    "analyze": "ANALYZING",
    "detect": "DETECTING",
    "restore": "RESTORING",
    "build": "BUILDING",
    "export": "EXPORTING",
}


class PhaseConsole:
    """The `Observer` port of a phase: prints each message on a line of its own."""

    def __init__(self, level: str, *, color: bool = True) -> None:
        """Raises UsageError for a level that does not exist."""
        if level not in LEVELS:
            raise UsageError(f"-log-level is one of {', '.join(LEVELS)}, not {level!r}")
        self._level = LEVELS.index(level)
        self._color = color

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Prints a heading."""
        self._print("info", self._paint("36", f"===> {_HEADINGS.get(name, name.upper())}"))
        yield

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        """Prints nothing."""
        yield

    def say(self, text: str) -> None:
        """Prints a line."""
        self._print("info", text)

    def detail(self, text: str) -> None:
        """Prints a line at the level debug."""
        self._print("debug", text)

    def warn(self, text: str) -> None:
        """Prints a warning."""
        self._print("warn", f"{self._paint('33', 'Warning:')} {text}")

    def output(self, source: str, data: bytes) -> None:
        """Passes the output of a buildpack on, at every level."""
        while data:
            data = data[os.write(1, data) :]

    def fail(self, error: PackhorseError) -> None:
        """Prints an error: what happened, why, and what to do."""
        lines = [f"{self._paint('31', 'ERROR:')} {error.what}"]
        lines += [f"  {line}" for part in (error.why, error.fix) for line in part.splitlines()]
        print("\n".join(lines), file=sys.stderr, flush=True)

    def _print(self, level: str, text: str) -> None:
        if LEVELS.index(level) >= self._level:
            print(text, flush=True)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._color else text
