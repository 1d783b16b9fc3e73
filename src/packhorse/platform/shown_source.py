"""The source as the buildpacks of a build are shown it: as it lies, or a copy, and what hides the excluded.

Whether it can be shown is told by a look at each of its files. Where there are many, detection begins before
that is over, and for once in vain where it cannot. Called by `building`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.base import userns
from packhorse.source import app
from packhorse.source.survey import Survey
from packhorse.source.surveying import FEW, Surveying, surveying
from packhorse.store.lease import make_directory


class SeveralOwners(Exception):
    """The source was shown as one user's and has files of several; never seen by a user."""

    def __init__(self, survey: Survey) -> None:
        super().__init__()
        self.survey = survey


class ShownSource:
    """The source at `path`, without the paths `left_out`; its user is to be `owner`, as ids of this machine.
    Made by `opened`.
    """

    def __init__(
        self, path: Path, owner: tuple[int, int], left_out: Sequence[str], under_way: Surveying | None
    ) -> None:
        self._path = path
        self._owner = owner
        self._left_out = left_out
        self._under_way = under_way
        self._is_copied = False

    def lowers(self, scratch: Path, namespace: userns.Namespace) -> tuple[Path, ...]:
        """The source, and above it what hides the excluded; a copy in `scratch` where it is known already
        that it cannot be shown as its user's. None where it is not looked at.
        """
        if self._under_way is None:
            return ()
        known = self._under_way.known
        is_mixed = known is not None and not known.has_one_owner
        if is_mixed or (os.geteuid() == 0 and not userns.presentable(self._path, namespace)):
            self._is_copied = True
            copied = scratch / "source"
            self.copy(self._path, copied)
            return (copied,)
        if not self._left_out:
            return (self._path,)
        hidden = scratch / "hidden"
        make_directory(hidden)
        app.whiteouts(self._path, self._left_out, hidden)
        return (self._path, hidden)

    def copy(self, source: Path, target: Path) -> None:
        """Copies a directory as the source's user's; of the source itself not what is left out."""
        app.copy(source, target, self._owner, self._left_out if source == self._path else ())

    def settle(self) -> None:
        """Waits until all was looked at; raises SeveralOwners where it should have been a copy."""
        if self._under_way is not None and not self._is_copied and not self._under_way.wait().has_one_owner:
            raise SeveralOwners(self._under_way.wait())

    @contextmanager
    def settled(self) -> Iterator[None]:
        """What fails in the block may fail because of owners: then SeveralOwners is raised instead."""
        try:
            yield
        except Exception:
            self.settle()
            raise

    def survey(self) -> Survey:
        """What was found; nothing where it is not looked at."""
        return self._under_way.wait() if self._under_way is not None else Survey(has_one_owner=True)


@contextmanager
def opened(
    path: Path,
    owner: tuple[int, int],
    left_out: Sequence[str] = (),
    known: Survey | None = None,
    *,
    looked_at: bool = True,
    few: int = FEW,
) -> Iterator[ShownSource]:
    """The source for one build; what is `known` of it, or is not to be `looked_at`, is not."""
    if not looked_at:
        yield ShownSource(path, owner, left_out, None)
        return
    asked = None if os.geteuid() == 0 else owner
    with surveying(path, asked, left_out, known=known, few=few) as under_way:
        yield ShownSource(path, owner, left_out, under_way)
