"""How much of the disk builds may keep for the next ones, and what goes when that is not enough.

Called by `build.deliver` after a build that kept something new, and by cli's `cache`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from packhorse.base.dataclass import dataclass
from packhorse.errors import NotFoundError
from packhorse.image.reference import Reference
from packhorse.lifecycle.ports import Observer
from packhorse.store.gc import FreedSpace
from packhorse.store.store import Store

_LEAST = 10 << 30


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What went: the names, and what that freed."""

    apps: tuple[str, ...]
    freed: FreedSpace


def default_limit(store: Store) -> int:
    """How many bytes of layers are kept where nobody says how many: a tenth of the disk, at least 10 GiB."""
    disk = os.statvfs(store.path)
    return max(disk.f_blocks * disk.f_frsize // 10, _LEAST)


def trim(store: Store, limit: int | None, *, built: Reference, observer: Observer) -> None:
    """Forgets what was not used for longest where more than `limit` bytes are kept; 0 is no limit."""
    if limit == 0:
        return
    for app in store.trim(limit or default_limit(store), stays=str(built)):
        observer.say(
            f"what was kept for {app} goes: all that builds keep is more than may be (PACKHORSE_KEEP_STORAGE)"
        )


def remove(store: Store, names: Iterable[str]) -> PruneResult:
    """Removes what is kept for these images; raises NotFoundError, then for all, InputError."""
    apps = {str(Reference.parse(name)): name for name in names}
    known = store.last_uses()
    missing = [name for app, name in apps.items() if app not in known]
    if missing:
        raise NotFoundError(
            f"nothing is kept for {', '.join(missing)}",
            why="nothing was built under that name, or it has been removed",
            fix="see `packhorse cache ls`",
        )
    _, freed = store.remove_caches(apps)
    return PruneResult(tuple(sorted(apps)), freed)


def prune(store: Store, *, limit: int | None, older: float | None, every: bool) -> PruneResult:
    """Removes all, or what is beyond a limit (0 is none), or was not used for so many seconds; or both.

    Without anything it is the usual limit.
    """
    if every:
        apps = set(store.last_uses())
    elif limit is None and older is not None:
        apps = _unused(store, older)
    else:
        apps = set(store.caches_beyond(default_limit(store) if limit is None else limit))
        if older is not None:
            apps &= _unused(store, older)
    _, freed = store.remove_caches(apps)
    return PruneResult(tuple(sorted(apps)), freed)


def _unused(store: Store, seconds: float) -> set[str]:
    return {app for app, used in store.last_uses().items() if used < time.time() - seconds}
