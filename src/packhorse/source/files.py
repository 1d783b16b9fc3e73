"""① The application directory as handed in: what of it is not part of the source.

Nothing is copied where the kernel can show it to the sandbox's user: what is left out is then hidden by
whiteouts in an overlay above the directory. Called by `build.plan` and `build.execute`.

① One look at every entry of the source: whether its owners are one, and stamps of all that lstat(2) says.

Nothing is read. Called by `surveying`, and by `build.mounts`. Few imports, since the process that
`surveying` starts pays for each.

① A survey of the source that goes on while something else is done, where there is much to look at.

To look at 30,000 files takes as long as to start a sandbox: a process of its own does that meanwhile. Called
by `build.execute`. What is looked at is `survey`'s.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packhorse.base import files
from packhorse.base.dataclass import dataclass, field
from packhorse.base.files import FULL, find_shortage
from packhorse.errors import DiskFull, HostError, InputError
from packhorse.fs.compare import Entry
from packhorse.fs.compare import stamp as stamp_of
from packhorse.fs.copy import copy_content
from packhorse.linux.processes import python_command

_SHOWN = 3

_SAID_OF_GONE = tuple(f"[Errno {number}]" for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR))
"""How shutil says that something is not there any more, or of another kind now."""


def check(path: Path) -> Path:
    """The application directory, absolute; raises InputError when there is none to build from."""
    resolved = files.resolve(path)
    if resolved is None:
        raise InputError(
            f"there is no {path}", why="--path names the directory with the source", fix="check --path"
        )
    if not resolved.is_dir():
        raise InputError(f"{path} is not a directory", why="--path names the directory with the source")
    try:
        empty = not any(resolved.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    if empty:
        raise InputError(f"{path} is empty", why="there is no source to build from", fix="check --path")
    return resolved


def copy(app: Path, target: Path, owner: tuple[int, int], excluded: Sequence[str] = ()) -> None:
    """Copies the source to the new directory `target` as `owner`'s, where it cannot be shown as if it were.

    Links stay links, pipes pipes, and modes stay; the paths `excluded` are not copied, nor are sockets and
    devices, which no layer has, nor what goes from it meanwhile. Raises DiskFull; HostError when it cannot be
    copied.
    """
    hidden = {str(app / path) for path in excluded}

    def ignore(directory: str, names: list[str]) -> list[str]:
        paths = {name: Path(directory, name) for name in names}
        return [name for name, path in paths.items() if str(path) in hidden or not _is_supported(path)]

    try:
        _copy_tree(app, target, ignore)
        for directory, directories, files in os.walk(target):
            for name in (".", *directories, *files):
                _set_owner(Path(directory, name), owner)
    except shutil.Error as error:
        _raise_if_full(target, error)
        raise HostError(
            "the source cannot be copied",
            why="\n".join(str(why) for _, _, why in error.args[0][:_SHOWN]),
            fix="give the building user the right to read it, or move it elsewhere",
        ) from error
    except OSError as error:
        _raise_if_full(target, error)
        raise HostError("the source cannot be copied", why=str(error)[:500]) from error


def _raise_if_full(target: Path, error: OSError) -> None:
    if why := find_shortage(target.parent):
        raise DiskFull(f"a copy of the source at {target}", why=why) from error


def _copy_tree(app: Path, target: Path, ignore: Callable[[str, list[str]], list[str]]) -> None:
    try:
        shutil.copytree(app, target, symlinks=True, ignore=ignore, copy_function=_copy)
    except shutil.Error as error:
        # Of the source itself that is no answer.
        failed = [one for one in error.args[0] if Path(one[0]) == app or not one[2].startswith(_SAID_OF_GONE)]
        if failed:
            raise shutil.Error(failed) from error


def _is_supported(path: Path) -> bool:
    """Whether it is of a kind that layers have; a device that is read may have no end."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


def _copy(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
        shutil.copymode(source, target)
        return
    with Path(source).open("rb") as original, Path(target).open("xb") as made:
        copy_content(original.fileno(), made.fileno())
    shutil.copystat(source, target)


def _set_owner(path: Path, owner: tuple[int, int]) -> None:
    """Changes the owner and keeps the mode, of which chown(2) takes the setuid and setgid bits away."""
    mode = path.lstat().st_mode
    os.chown(path, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode))


def make_whiteouts(app: Path, paths: Sequence[str], target: Path) -> None:
    """Makes in `target` the overlay layer that hides `paths` of `app`; needs no privilege (Linux 5.8).

    A directory above one has the mode that it has in `app`. Raises HostError where the file system cannot
    hold whiteouts, and OSError where it is full.
    """
    modes = {"": 0}
    for path in paths:
        if not os.path.lexists(app / path):
            continue  # it has gone since it was found
        above = path.rpartition("/")[0]
        try:
            _make_directories(app, above, target, modes)
            os.mknod(target / path, 0o020000, os.makedev(0, 0))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise HostError(
                f"{path} cannot be left out of the source",
                why=f"the store's file system does not take overlay whiteouts: {error.strerror}",
                fix="put the store on another file system (PACKHORSE_HOME)",
                check="overlay",
            ) from error
    # Whiteouts can only be made in a directory that this user may write to.
    for above, mode in modes.items():
        if above:
            (target / above).chmod(mode)


def _make_directories(app: Path, path: str, target: Path, modes: dict[str, int]) -> None:
    """Makes `path` and what is above it, and notes in `modes` which mode each is to have."""
    missing = []
    while path not in modes:
        missing.append(path)
        path = path.rpartition("/")[0]
    for each in reversed(missing):
        modes[each] = stat.S_IMODE((app / each).lstat().st_mode)
        (target / each).mkdir(mode=0o700)


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
            self._found = scan_source(self._app, self._owner, self._excluded, limit=inline_limit)
        except TooManyEntries:
            top = owner_of(os.lstat(self._app))
            owner = self._owner or top
            if owner != top:  # whose sandbox has to wait for a copy
                self._found = scan_source(self._app, owner, self._excluded)
                return
            words = [*python_command(__name__), self._app, *map(str, owner)]
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
            self._found = SourceScan.decode(told) or scan_source(self._app, self._owner, self._excluded)
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
