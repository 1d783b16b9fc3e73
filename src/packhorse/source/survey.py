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
from collections.abc import Mapping, Sequence

from packhorse.base.dataclass import dataclass, field
from packhorse.base.stamp import Entry
from packhorse.base.stamp import stamp as stamp_of

_SECOND = 1_000_000_000
_TICK = 50_000_000
"""Nanoseconds that the times of files may be behind: a kernel's clock for them ticks every 1 to 10 ms."""

_END = "/"  # no path below a directory begins with it


@dataclass(frozen=True, slots=True)
class SourceScan:
    """What one look at every entry of the source tells, without reading any.

    `stamp` is the same as long as nothing of it has changed (paths, kinds, modes, sizes, times, inodes); it
    is empty where that could not be told by it, see `scan_source`. `directory_stamps` has that of what is
    directly in each directory ("" for the top, else a path below it), without its own times.
    """

    has_one_owner: bool
    stamp: str = ""
    directory_stamps: Mapping[str, str] = field(default_factory=dict)
    size: int = 0  # bytes of all its files on the disk

    def encode(self) -> bytes:
        """The scan as bytes, for `decode`."""
        words = ["one" if self.has_one_owner else "several", str(self.size), self.stamp]
        for path, stamp in self.directory_stamps.items():
            words += (path, stamp)
        return "\0".join([*words, _END]).encode("utf-8", "surrogateescape")

    @classmethod
    def decode(cls, data: bytes) -> SourceScan | None:
        """What `encode` has made; None where its end is missing."""
        owners, *words = data.decode("utf-8", "surrogateescape").split("\0")
        if len(words) < 3 or words[-1] != _END:
            return None
        size, stamp, *rest = words[:-1]
        directories = dict(zip(rest[::2], rest[1::2], strict=True))
        return cls(owners == "one", stamp, directories, int(size))


_GONE = (FileNotFoundError, NotADirectoryError)
"""What is said of an entry of a directory that has gone, or is another thing now."""


class TooManyEntries(Exception):
    """There are more entries than were to be looked at."""


def scan_source(
    app: str | os.PathLike[str],
    owner: tuple[int, int] | None = None,
    excluded: Sequence[str] = (),
    *,
    limit: int = sys.maxsize,
) -> SourceScan:
    """Looks at all of the source, and whether it has one user and group: those of `app` itself or `owner`.
    The paths `excluded` are no part of it.

    A mount can show no more as one; without one, what has another group cannot be written to in an overlay.
    A directory has no stamp when a file in it was written within the last moment: it could be written again
    before the clock of its file system ticks; nor has one in which something goes meanwhile. Then all of it
    has none either, and there is none at all where something cannot be looked at. Raises TooManyEntries where
    there are more than `limit` entries.
    """
    now = time.time_ns()
    top = os.fspath(app)
    cut = len(top.rstrip("/")) + 1
    try:
        status = os.lstat(top)
    except OSError:  # it has gone: who copies it is told so
        return SourceScan(has_one_owner=False)
    found = owner_of(status)
    owner = owner or found
    hidden: dict[str, set[str]] = {}
    for path in excluded:
        above, _, name = path.rpartition("/")
        hidden.setdefault(above, set()).add(name)
    one = found == owner
    coarse, count, whole = True, 0, 0
    directories: dict[str, str] = {}
    newest: dict[str, int] = {}
    total = hashlib.sha256("\0".join(sorted(excluded)).encode("utf-8", "surrogateescape"))
    waiting = [(top, status)]
    try:
        while waiting:
            above, itself = waiting.pop()
            path = above[cut:]
            latest, here = 0, list[Entry]()
            hidden_here = hidden.get(path, ())
            try:
                listed = os.scandir(above)
            except _GONE:
                newest[path] = now
                continue
            with listed as entries:
                for entry in entries:
                    name = entry.name
                    if name in hidden_here:
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except _GONE:
                        latest = now
                        continue
                    count += 1
                    if count > limit:
                        raise TooManyEntries
                    if (status.st_uid, status.st_gid) != owner:
                        one = False
                    mode = status.st_mode
                    if stat.S_ISDIR(mode):
                        waiting.append((entry.path, status))
                        here.append((name, mode, 0, 0, 0, 0))
                        continue
                    size = status.st_size if stat.S_ISREG(mode) else 0
                    whole += min(size, status.st_blocks * 512)  # which is less where a file has holes
                    changed = status.st_ctime_ns
                    here.append((name, mode, size, status.st_mtime_ns, changed, status.st_ino))
                    if changed > latest:
                        latest = changed
                    if changed % _SECOND:
                        coarse = False
            directories[path], newest[path] = stamp_of(here), latest
            # When it was changed itself tells that something was there, and is gone.
            words = path, directories[path], itself.st_dev, itself.st_ino, itself.st_ctime_ns
            total.update(repr(words).encode())
    except OSError:  # shut, or deeper than a path can say
        return SourceScan(has_one_owner=False)
    old = now - (2 * _SECOND if coarse else _TICK)
    young = [path for path, latest in newest.items() if latest > old]
    for path in young:
        directories[path] = ""
    return SourceScan(one, "" if young else total.hexdigest(), directories, whole)


def owner_of(status: os.stat_result) -> tuple[int, int]:
    """The user and group of an entry."""
    return status.st_uid, status.st_gid


def main(words: list[str]) -> int:
    """Prints what a survey of the directory given, and its owner, tells; started by `surveying`.

    What is left out stands in stdin, each path behind the one before and a zero byte.
    """
    app, uid, gid = words
    left_out = os.fsdecode(sys.stdin.buffer.read())
    paths = left_out.split("\0") if left_out else ()
    sys.stdout.buffer.write(scan_source(app, (int(uid), int(gid)), paths).encode())
    sys.stdout.buffer.flush()
    return 0
