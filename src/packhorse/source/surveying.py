"""① A survey of the source that goes on while something else is done, where there is much to look at.

To look at 30,000 files takes as long as to start a sandbox: a process of its own does that meanwhile. Called
by `build.execute`. What is looked at is `survey`'s.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from packhorse.base import proc
from packhorse.source import survey
from packhorse.source.survey import SourceScan, TooManyEntries, owner_of

INLINE_LIMIT = 2000
"""Entries that are looked at while a process would start."""


class SourceScanner:
    """A survey that may still be under way; made by `open_scanner`."""

    def __init__(
        self, app: str, owner: tuple[int, int] | None, excluded: Sequence[str], known: SourceScan | None
    ) -> None:
        self._app = app
        self._owner = owner
        self._excluded = excluded
        self._process: subprocess.Popen[bytes] | None = None
        self._found = known

    def start(self, inline_limit: int) -> None:
        """Has a look, and where there is more than `inline_limit` to see starts a process that does."""
        try:
            self._found = survey.scan_source(self._app, self._owner, self._excluded, limit=inline_limit)
        except TooManyEntries:
            top = owner_of(os.lstat(self._app))
            owner = self._owner or top
            if owner != top:  # whose sandbox has to wait for a copy
                self._found = survey.scan_source(self._app, owner, self._excluded)
                return
            words = [*proc.python_command(survey.__name__), self._app, *map(str, owner)]
            with os.fdopen(os.memfd_create("left-out"), "w+b") as paths:
                paths.write(os.fsencode("\0".join(self._excluded)))
                paths.seek(0)
                self._process = subprocess.Popen(
                    words, stdin=paths, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )

    def stop(self) -> None:
        """Lets go of the process; what it would find nobody wants."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def known(self) -> SourceScan | None:
        """What was found, as far as it is known by now."""
        return self._found

    def wait(self) -> SourceScan:
        """What was found. A process that has told nothing is none that is relied on."""
        if self._found is None:
            told = self._process.communicate()[0] if self._process is not None else b""
            self._process = None
            self._found = SourceScan.decode(told) or survey.scan_source(
                self._app, self._owner, self._excluded
            )
        return self._found


@contextmanager
def open_scanner(
    app: str | os.PathLike[str],
    owner: tuple[int, int] | None = None,
    excluded: Sequence[str] = (),
    *,
    known: SourceScan | None = None,
    inline_limit: int = INLINE_LIMIT,
) -> Iterator[SourceScanner]:
    """A scan that goes on while the block runs, where there is much to look at and it is not `known`."""
    under_way = SourceScanner(os.fspath(app), owner, excluded, known)
    try:
        if known is None:
            under_way.start(inline_limit)
        yield under_way
    finally:
        under_way.stop()
