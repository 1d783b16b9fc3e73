"""① One look at every entry of the source: whether its owners are one, and a stamp of all that lstat(2) says.

Nothing is read. Called by `surveying`, and by `platform.volumes`. Few imports, since the process that
`surveying` starts pays for each.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import time
from array import array

from packhorse.base.dataclass import dataclass

ALWAYS_EXCLUDED = (".git",)
"""What is never part of the source: history changes without the source changing, and can hold secrets."""

_SECOND = 1_000_000_000
_WORD = (1 << 64) - 1
_TICK = 50_000_000
"""Nanoseconds that the times of files may be behind: a kernel's clock for them ticks every 1 to 10 ms."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at every entry of the source tells, without reading any.

    `stamp` is the same as long as nothing of it has changed (paths, kinds, modes, sizes, times of files and
    links, inodes); it is empty where that could not be told by it, see `survey`.
    """

    has_one_owner: bool
    stamp: str = ""


class TooMany(Exception):
    """There are more entries than were to be looked at."""


def survey(
    app: str | os.PathLike[str], owner: tuple[int, int] | None = None, *, most: int = sys.maxsize
) -> Survey:
    """Looks at all of the source, and whether it has one user and group: those of `app` itself or `owner`.

    A mount can show no more as one; without one, what has another group cannot be written to in an overlay.
    There is no stamp where something cannot be looked at, and none when a file was written within the last
    moment: it could be written again before the clock of its file system ticks. Raises TooMany where there
    are more than `most` entries.
    """
    now = time.time_ns()
    top = os.fspath(app)
    found = owner_of(os.lstat(top))
    owner = owner or found
    hidden = {name for name in ALWAYS_EXCLUDED if os.path.lexists(f"{top}/{name}")}
    one = found == owner
    newest, coarse = 0, True
    # Names, each with a number of numbers that its mode tells; of both there are as many as files.
    names, numbers = ["\0".join(sorted(hidden))], array("Q")
    waiting = [top]
    try:
        while waiting:
            above = waiting.pop()
            names.append(above)
            with os.scandir(above) as entries:
                for entry in entries:
                    if entry.name in hidden:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    names.append(entry.name)
                    if len(names) > most:
                        raise TooMany
                    if (status.st_uid, status.st_gid) != owner:
                        one = False
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append(entry.path)
                        numbers.append(status.st_mode)
                        continue
                    modified, changed = status.st_mtime_ns, status.st_ctime_ns
                    times = modified & _WORD, changed & _WORD  # before 1970 or after 2262
                    numbers.extend((status.st_mode, status.st_size, *times, status.st_ino, status.st_dev))
                    if changed > newest:
                        newest = changed
                    if changed % _SECOND:
                        coarse = False
            names.append("/")
            hidden = set()  # at the top alone
    except PermissionError:
        return Survey(has_one_owner=False)
    moment = 2 * _SECOND if coarse else _TICK
    if newest > now - moment:
        return Survey(one)
    total = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
    total.update(numbers.tobytes())
    return Survey(one, total.hexdigest())


def owner_of(status: os.stat_result) -> tuple[int, int]:
    """The user and group of an entry."""
    return status.st_uid, status.st_gid


def main(words: list[str]) -> int:
    """Prints what a survey of the directory given, and its owner, tells; started by `surveying`."""
    app, uid, gid = words
    found = survey(app, (int(uid), int(gid)))
    print("one" if found.has_one_owner else "several", found.stamp, end="", flush=True)
    return 0
