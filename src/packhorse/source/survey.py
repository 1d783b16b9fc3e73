"""① One look at every entry of the source: whether its owners are one, and stamps of all that lstat(2) says.

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
from collections.abc import Mapping

from packhorse.base.dataclass import dataclass, field

ALWAYS_EXCLUDED = (".git",)
"""What is never part of the source: history changes without the source changing, and can hold secrets."""

_SECOND = 1_000_000_000
_WORD = (1 << 64) - 1
_TICK = 50_000_000
"""Nanoseconds that the times of files may be behind: a kernel's clock for them ticks every 1 to 10 ms."""

_END = "/"  # no path below a directory begins with it

_SHORT = 32
"""Digits of a directory's stamp: 128 bits, for nobody but who owns the source chooses what they are of."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at every entry of the source tells, without reading any.

    `stamp` is the same as long as nothing of it has changed (paths, kinds, modes, sizes, times of files and
    links, inodes); it is empty where that could not be told by it, see `survey`. `directories` has the same
    of each directory ("" for the top, else a path below it), for what is directly in it; as many as have a
    stamp.
    """

    has_one_owner: bool
    stamp: str = ""
    directories: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The survey as bytes, for `decoded`."""
        words = ["one" if self.has_one_owner else "several", self.stamp]
        for path, stamp in self.directories.items():
            words += (path, stamp)
        return "\0".join([*words, _END]).encode("utf-8", "surrogateescape")

    @classmethod
    def decoded(cls, data: bytes) -> Survey | None:
        """What `encoded` has made; None where its end is missing."""
        owners, *words = data.decode("utf-8", "surrogateescape").split("\0")
        if len(words) < 2 or words[-1] != _END:
            return None
        return cls(owners == "one", words[0], dict(zip(words[1:-1:2], words[2:-1:2], strict=True)))


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
    cut = len(top.rstrip("/")) + 1
    found = owner_of(os.lstat(top))
    owner = owner or found
    hidden = {name for name in ALWAYS_EXCLUDED if os.path.lexists(f"{top}/{name}")}
    one = found == owner
    newest, coarse, count = 0, True, 0
    directories: dict[str, str] = {}
    total = hashlib.sha256("\0".join(sorted(hidden)).encode())
    waiting = [top]
    try:
        while waiting:
            above = waiting.pop()
            # Names, each with a number of numbers that its mode tells; of both there are as many as files.
            names, numbers = [], array("Q")
            with os.scandir(above) as entries:
                for entry in entries:
                    if entry.name in hidden:
                        continue
                    status = entry.stat(follow_symlinks=False)
                    names.append(entry.name)
                    count += 1
                    if count > most:
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
            here = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape"))
            here.update(numbers.tobytes())
            path, stamp = above[cut:], here.hexdigest()[:_SHORT]
            directories[path] = stamp
            total.update(f"\0{path}\0{stamp}".encode("utf-8", "surrogateescape"))
            hidden = set()  # at the top alone
    except PermissionError:
        return Survey(has_one_owner=False)
    moment = 2 * _SECOND if coarse else _TICK
    if newest > now - moment:
        return Survey(one)
    return Survey(one, total.hexdigest(), directories)


def owner_of(status: os.stat_result) -> tuple[int, int]:
    """The user and group of an entry."""
    return status.st_uid, status.st_gid


def main(words: list[str]) -> int:
    """Prints what a survey of the directory given, and its owner, tells; started by `surveying`."""
    app, uid, gid = words
    sys.stdout.buffer.write(survey(app, (int(uid), int(gid))).encoded())
    sys.stdout.buffer.flush()
    return 0
