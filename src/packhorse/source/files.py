"""① The source directory: checks it, copies it, hides what is excluded, and scans what it holds.

A build shows the source to the sandbox without a copy if the kernel can show it as the builder's user. An
overlay then hides excluded paths with whiteouts. A scan looks at every entry with lstat(2) and reads no
file, so that a build knows an unchanged source again. A scan of 30,000 files takes as long as a sandbox takes
to start, so a process of its own does it meanwhile; this module has few imports because that process pays
for each. Used by `build.plan`, `build.execute`, `build.mounts` and `build.layers`.
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
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
"""How many of the files that cannot be copied an error names."""

_GONE_ERRORS = tuple(f"[Errno {number}]" for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR))
"""How shutil's errors begin for something that has gone, or is of another kind now."""


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
    """Copies the source to the new directory `target` and gives the copy to `owner`.

    Links, pipes and modes stay as they are. The paths `excluded`, sockets, devices and what disappears during
    the copy are left out. Raises DiskFull, and HostError for a source that cannot be read.
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
        # What has gone from the source is no error, but the source itself is.
        failed = [one for one in error.args[0] if Path(one[0]) == app or not one[2].startswith(_GONE_ERRORS)]
        if failed:
            raise shutil.Error(failed) from error


def _is_supported(path: Path) -> bool:
    """Whether it is of a kind that layers have. A device could be read without end."""
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
    """Changes the owner and restores the setuid and setgid bits, which chown(2) removes."""
    mode = path.lstat().st_mode
    os.chown(path, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode))


def make_whiteouts(app: Path, paths: Sequence[str], target: Path) -> None:
    """Makes in `target` the overlay layer that hides `paths` of `app`. Linux 5.8 and newer need no privilege.

    The directories above them get the modes that they have in `app`. Raises HostError if the file system
    cannot hold whiteouts, and OSError if it is full.
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
    """Makes the directory `path` and those above it, and notes in `modes` the mode of each in `app`."""
    missing = []
    while path not in modes:
        missing.append(path)
        path = path.rpartition("/")[0]
    for each in reversed(missing):
        modes[each] = stat.S_IMODE((app / each).lstat().st_mode)
        (target / each).mkdir(mode=0o700)


_SECOND = 1_000_000_000
_TICK = 50_000_000
"""Nanoseconds by which times of files may be behind: the kernel's clock for them ticks every 1 to 10 ms."""

_END = "/"  # no path below a directory begins with it


@dataclass(frozen=True, slots=True)
class SourceScan:
    """What lstat(2) says of the entries of a source, made by `scan_source`.

    `stamp` stays the same while no path, kind, mode, size, time and inode changes; it is empty if a change
    could pass unseen. `directory_stamps` has a stamp of what is directly in each directory, by its path
    ("" is the top), without the directory's own times.
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
        """Reads what `encode` wrote; None if its end is missing."""
        owners, *words = data.decode("utf-8", "surrogateescape").split("\0")
        if len(words) < 3 or words[-1] != _END:
            return None
        size, stamp, *rest = words[:-1]
        directories = dict(zip(rest[::2], rest[1::2], strict=True))
        return cls(owners == "one", stamp, directories, int(size))


_GONE = (FileNotFoundError, NotADirectoryError)
"""The errors for an entry that has gone, or is of another kind now."""


class TooManyEntries(Exception):
    """The source has more entries than the scan may look at."""


def scan_source(
    app: str | os.PathLike[str],
    owner: tuple[int, int] | None = None,
    excluded: Sequence[str] = (),
    *,
    limit: int = sys.maxsize,
) -> SourceScan:
    """Looks at every entry of the source except the paths `excluded`.

    `has_one_owner` says whether everything belongs to the user and group `owner`, by default `app`'s.
    A mount can show no other source as another user's. A directory has no stamp if a file in it changed in
    the last moment, because the file could change again before the file system's clock ticks, or if something
    in it disappeared meanwhile. Then the whole source has no stamp either. A source that cannot be looked at
    has none at all. Raises TooManyEntries if there are more than `limit` entries.
    """
    now = time.time_ns()
    top = os.fspath(app)
    cut = len(top.rstrip("/")) + 1
    try:
        status = os.lstat(top)
    except OSError:  # it has gone: whoever copies it gets the error
        return SourceScan(has_one_owner=False)
    owner = owner or owner_of(status)
    has_one_owner = owner_of(status) == owner
    hidden = _names_by_directory(excluded)
    is_coarse, count, size = True, 0, 0
    stamps: dict[str, str] = {}
    newest: dict[str, int] = {}
    total = hashlib.sha256("\0".join(sorted(excluded)).encode("utf-8", "surrogateescape"))
    waiting = [(top, status)]
    try:
        while waiting:
            above, itself = waiting.pop()
            path = above[cut:]
            found = _scan_directory(above, hidden.get(path, frozenset()), owner, now, limit - count)
            if found is None:
                newest[path] = now
                continue
            waiting += found.directories
            count += len(found.entries)
            size += found.size
            has_one_owner = has_one_owner and found.has_one_owner
            is_coarse = is_coarse and found.is_coarse
            stamps[path], newest[path] = stamp_of(found.entries), found.latest
            # The directory's own time says that something was there and is gone.
            words = path, stamps[path], itself.st_dev, itself.st_ino, itself.st_ctime_ns
            total.update(repr(words).encode())
    except OSError:  # not readable, or deeper than a path can say
        return SourceScan(has_one_owner=False)
    old = now - (2 * _SECOND if is_coarse else _TICK)
    young = [path for path, latest in newest.items() if latest > old]
    for path in young:
        stamps[path] = ""
    return SourceScan(has_one_owner, "" if young else total.hexdigest(), stamps, size)


@dataclass(frozen=True, slots=True)
class _DirectoryScan:
    """What is directly in one directory. `latest` is the newest time of a change, in nanoseconds; `is_coarse`
    whether all times are whole seconds; `size` the bytes of its files on the disk.
    """

    entries: list[Entry]
    directories: list[tuple[str, os.stat_result]]
    latest: int
    is_coarse: bool
    size: int
    has_one_owner: bool


def _scan_directory(
    above: str, hidden: Set[str], owner: tuple[int, int], now: int, limit: int
) -> _DirectoryScan | None:
    """Looks at one directory, except the names `hidden`; None if it has gone. Raises TooManyEntries."""
    entries = list[Entry]()
    directories: list[tuple[str, os.stat_result]] = []
    latest, size, is_coarse, has_one_owner = 0, 0, True, True
    try:
        listed = os.scandir(above)
    except _GONE:
        return None
    with listed as found:
        for entry in found:
            name = entry.name
            if name in hidden:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except _GONE:
                latest = now
                continue
            if len(entries) == limit:
                raise TooManyEntries
            if (status.st_uid, status.st_gid) != owner:
                has_one_owner = False
            mode = status.st_mode
            if stat.S_ISDIR(mode):
                directories.append((entry.path, status))
                entries.append((name, mode, 0, 0, 0, 0))
                continue
            length = status.st_size if stat.S_ISREG(mode) else 0
            size += min(length, status.st_blocks * 512)  # which is less where a file has holes
            changed = status.st_ctime_ns
            entries.append((name, mode, length, status.st_mtime_ns, changed, status.st_ino))
            if changed > latest:
                latest = changed
            if changed % _SECOND:
                is_coarse = False
    return _DirectoryScan(entries, directories, latest, is_coarse, size, has_one_owner)


def _names_by_directory(paths: Sequence[str]) -> Mapping[str, Set[str]]:
    """The last part of each path, by the directory it is in."""
    found: dict[str, set[str]] = {}
    for path in paths:
        above, _, name = path.rpartition("/")
        found.setdefault(above, set()).add(name)
    return found


def owner_of(status: os.stat_result) -> tuple[int, int]:
    """The user and group of an entry."""
    return status.st_uid, status.st_gid


def main(words: list[str]) -> int:
    """Scans a directory and prints the encoded scan; SourceScanner starts it as a process.

    `words` are the directory, a user ID and a group ID. stdin has the excluded paths between zero bytes.
    """
    app, uid, gid = words
    left_out = os.fsdecode(sys.stdin.buffer.read())
    paths = left_out.split("\0") if left_out else ()
    sys.stdout.buffer.write(scan_source(app, (int(uid), int(gid)), paths).encode())
    sys.stdout.buffer.flush()
    return 0


INLINE_LIMIT = 2000
"""How many entries a scan looks at in the time in which a process starts."""


class SourceScanner:
    """A scan that may still be running; made by `open_scanner`."""

    def __init__(
        self, app: str, owner: tuple[int, int] | None, excluded: Sequence[str], known: SourceScan | None
    ) -> None:
        self._app = app
        self._owner = owner
        self._excluded = excluded
        self._process: subprocess.Popen[bytes] | None = None
        self._found = known

    def start(self, inline_limit: int) -> None:
        """Scans up to `inline_limit` entries here; if there are more, starts a process that scans all."""
        try:
            self._found = scan_source(self._app, self._owner, self._excluded, limit=inline_limit)
        except TooManyEntries:
            top = owner_of(os.lstat(self._app))
            owner = self._owner or top
            if owner != top:  # the sandbox has to wait for a copy anyway
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
        """Ends the process, if it still runs."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def known(self) -> SourceScan | None:
        """The scan, or None while it is running."""
        return self._found

    def wait(self) -> SourceScan:
        """The scan. If the process was killed before it printed all, the scan is made here."""
        if self._found is None:
            printed = self._process.communicate()[0] if self._process is not None else b""
            self._process = None
            self._found = SourceScan.decode(printed) or scan_source(self._app, self._owner, self._excluded)
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
    """Starts a scan, which runs beside the block if the source is large. A `known` scan is not made again."""
    scanner = SourceScanner(os.fspath(app), owner, excluded, known)
    try:
        if known is None:
            scanner.start(inline_limit)
        yield scanner
    finally:
        scanner.stop()
