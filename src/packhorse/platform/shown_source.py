"""The source as the buildpacks of a build are shown it: as it lies, or a copy, and what hides the excluded.

Whether it can be shown as it lies is told by a look at each of its files. Where there are many, detection
begins before that is over, and for once in vain where it cannot. Called by `build.execute`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.base import userns
from packhorse.source import app
from packhorse.source.survey import SourceScan
from packhorse.source.surveying import INLINE_LIMIT, SourceScanner, open_scanner
from packhorse.store.lease import make_directory


class SourceMount:
    """The source at `path`, without the paths `excluded`; its user is to be `owner`, as ids of this machine.

    It is shown as it lies as long as no file of another user is known, and from then on as a copy; the copy,
    or what hides the excluded, is in `scratch`. Made by `open_source`.
    """

    def __init__(
        self,
        path: Path,
        owner: tuple[int, int],
        excluded: Sequence[str],
        scratch: Path,
        namespace: userns.Namespace,
        scanner: SourceScanner | None,
    ) -> None:
        self._path = path
        self._owner = owner
        self._excluded = excluded
        self._scratch = scratch
        self._namespace = namespace
        self._scanner = scanner
        self._is_direct = False
        self._lowers: tuple[Path, ...] = ()
        self._copied: tuple[Path, ...] = ()

    def lowers(self) -> tuple[Path, ...]:
        """The source, and above it what hides the excluded; or a copy of it."""
        known = self._scanner.known if self._scanner is not None else None
        is_mixed = known is not None and not known.has_one_owner
        if is_mixed or (os.geteuid() == 0 and not userns.supports_idmapping(self._path, self._namespace)):
            if not self._copied:
                self._copied = (self._scratch / "source",)
                self.copy(self._path, *self._copied)
            return self._copied
        self._is_direct = True
        self._lowers = self._lowers or self._direct_lowers()
        return self._lowers

    def _direct_lowers(self) -> tuple[Path, ...]:
        if not self._excluded:
            return (self._path,)
        hidden = self._scratch / "hidden"
        make_directory(hidden)
        app.make_whiteouts(self._path, self._excluded, hidden)
        return (self._path, hidden)

    def copy(self, source: Path, target: Path) -> None:
        """Copies a directory as the source's user's; of the source itself not what is left out."""
        app.copy(source, target, self._owner, self._excluded if source == self._path else ())

    def confirm(self) -> bool:
        """Waits until all was looked at; False where it was shown as it lies and should have been a copy."""
        if self._scanner is None or self._scanner.wait().has_one_owner:
            return True
        was_shown, self._is_direct = self._is_direct, False
        return not was_shown

    def scan(self) -> SourceScan:
        """What was found; nothing where it is not looked at."""
        return self._scanner.wait() if self._scanner is not None else SourceScan(has_one_owner=True)


@contextmanager
def open_source(
    path: Path,
    owner: tuple[int, int],
    excluded: Sequence[str],
    scratch: Path,
    namespace: userns.Namespace,
    *,
    scan: bool = True,
    inline_limit: int = INLINE_LIMIT,
) -> Iterator[SourceMount]:
    """The source for one build; without `scan` nobody looks at its files."""
    if not scan:
        yield SourceMount(path, owner, excluded, scratch, namespace, None)
        return
    asked = None if os.geteuid() == 0 else owner
    with open_scanner(path, asked, excluded, inline_limit=inline_limit) as scanner:
        yield SourceMount(path, owner, excluded, scratch, namespace, scanner)
