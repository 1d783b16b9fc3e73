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
from packhorse.source.survey import Survey, TooMany, owner_of

FEW = 2000
"""Entries that are looked at while a process would start."""


class Surveying:
    """A survey that may still be under way; made by `surveying`."""

    def __init__(
        self, app: str, owner: tuple[int, int] | None, left_out: Sequence[str], known: Survey | None
    ) -> None:
        self._app = app
        self._owner = owner
        self._left_out = left_out
        self._process: subprocess.Popen[bytes] | None = None
        self._found = known

    def begin(self, few: int) -> None:
        """Has a look, and where there is more than a `few` to see starts a process that does."""
        try:
            self._found = survey.survey(self._app, self._owner, self._left_out, most=few)
        except TooMany:
            top = owner_of(os.lstat(self._app))
            owner = self._owner or top
            if owner != top:  # whose sandbox has to wait for a copy
                self._found = survey.survey(self._app, owner, self._left_out)
                return
            words = [*proc.python(survey.__name__), self._app, *map(str, owner)]
            with os.fdopen(os.memfd_create("left-out"), "w+b") as paths:
                paths.write(os.fsencode("\0".join(self._left_out)))
                paths.seek(0)
                self._process = subprocess.Popen(
                    words, stdin=paths, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )

    def end(self) -> None:
        """Lets go of the process; what it would find nobody wants."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def known(self) -> Survey | None:
        """What was found, as far as it is known by now."""
        return self._found

    def wait(self) -> Survey:
        """What was found. A process that has told nothing is none that is relied on."""
        if self._found is None:
            told = self._process.communicate()[0] if self._process is not None else b""
            self._process = None
            self._found = Survey.decoded(told) or survey.survey(self._app, self._owner, self._left_out)
        return self._found


@contextmanager
def surveying(
    app: str | os.PathLike[str],
    owner: tuple[int, int] | None = None,
    left_out: Sequence[str] = (),
    *,
    known: Survey | None = None,
    few: int = FEW,
) -> Iterator[Surveying]:
    """A `survey` that goes on while the block runs, where there is much to look at and it is not `known`."""
    under_way = Surveying(os.fspath(app), owner, left_out, known)
    try:
        if known is None:
            under_way.begin(few)
        yield under_way
    finally:
        under_way.end()
