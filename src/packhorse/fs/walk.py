"""Walks, moves and removes entries below a directory descriptor, without following a link.

The caller's descriptor must be inside the tree. The caller also decides what may be edited, and as which
user. `fs.rooted` resolves paths.
"""

# Pathlib knows no descriptors.
# ruff: noqa: PTH101, PTH208

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Self

from packhorse.errors import TreeError
from packhorse.fs import shut

DEEPEST = 300
"""Levels that a walk follows down. Each holds a descriptor, two where another tree is walked beside it, and a
process has 1024."""
_HELD = 200
"""Levels whose descriptors are held while a tree is removed: its caller holds others."""
_BLOCKS = (1 << 20) // 512  # of a megabyte


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Closes `descriptor` at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Chain:
    """Open directories, each in the one before it; closes all but `top`. `here` is the last one.

    With `edit`, it changes the mode of a directory that shuts its owner out. Otherwise a child opens what the
    mode forbids, and nothing changes (`fs.shut`).
    """

    def __init__(self, top: int, *, edit: bool = False) -> None:
        self.here = top
        self._edit = edit
        self._above: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._above:
            self.leave()

    @property
    def depth(self) -> int:
        """How many directories are open below the top."""
        return len(self._above)

    def enter(self, name: str) -> None:
        """Opens the directory `name` of the last one; OSError for anything else, a link among it."""
        if self._edit:
            inner = open_directory(self.here, name)
        else:
            inner = shut.open_entry(self.here, name, os.O_RDONLY | os.O_DIRECTORY)
        self._above.append(self.here)
        self.here = inner

    def leave(self) -> None:
        """Closes the last directory."""
        left, self.here = self.here, self._above.pop()
        os.close(left)


Visit = tuple[int, str, os.stat_result, bool]
"""The directory of an entry, its name there, what lstat(2) said of it, and whether all below it is done."""


class Walk(Chain):
    """Visits the entries `names` of a directory, all of them by default, and everything below them.

    A directory is visited before its entries, and again after them. Entries come in the order the disk has
    them. No link is followed, and no path of several names is opened. `missing_ok` passes over entries that
    are removed meanwhile. Raises OSError, and TreeError for a tree of more than DEEPEST levels.
    """

    def __init__(
        self,
        directory: int,
        names: Sequence[str] | None = None,
        *,
        edit: bool = False,
        missing_ok: bool = False,
    ) -> None:
        super().__init__(directory, edit=edit)
        self._names = names
        self._missing_ok = missing_ok
        self._is_skipped = False

    def skip(self) -> None:
        """Leaves out what is below the directory just visited; it is not visited again."""
        self._is_skipped = True

    def __iter__(self) -> Iterator[Visit]:
        status_of = _status if self._edit else shut.lstat
        entered: list[tuple[str, os.stat_result]] = []
        pending = [iter(os.listdir(self.here) if self._names is None else self._names)]
        while pending:
            here = self.here
            for name in pending[-1]:
                try:
                    status = status_of(here, name)
                except FileNotFoundError:
                    if self._missing_ok:
                        continue
                    raise
                yield here, name, status, False
                if stat.S_ISDIR(status.st_mode) and self._descend(name):
                    entered.append((name, status))
                    pending.append(iter(os.listdir(self.here)))
                    break
            else:
                pending.pop()
                if pending:
                    self.leave()
                    yield self.here, *entered.pop(), True

    def _descend(self, name: str) -> bool:
        if self._is_skipped:
            self._is_skipped = False
            return False
        if self.depth >= DEEPEST:
            raise TreeError(
                f"{name[:100]} is nested more than {DEEPEST} deep", why="packhorse follows no tree further"
            )
        try:
            self.enter(name)
        except FileNotFoundError:
            if self._missing_ok:
                return False
            raise
        return True


def _status(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def open_directory(parent: int, name: str) -> int:
    """A descriptor of a subdirectory, made accessible first where its owner has shut itself out."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        let_owner_in(parent, name)
        return os.open(name, flags, dir_fd=parent)


def move(old_parent: int, old: str, new_parent: int, new: str) -> None:
    """Moves an entry to a free name; a directory that cannot be renamed (EXDEV), entry by entry."""
    with Walk(old_parent, [old], edit=True) as walk, Chain(new_parent, edit=True) as target:
        for directory, name, status, is_done in walk:
            if is_done:
                os.fchmod(target.here, stat.S_IMODE(status.st_mode))
                os.utime(target.here, ns=(status.st_atime_ns, status.st_mtime_ns))
                target.leave()
                os.rmdir(name, dir_fd=directory)
                continue
            made = name if walk.depth else new
            if _rename(directory, name, target.here, made):
                walk.skip()
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(made, 0o700, dir_fd=target.here)
                target.enter(made)
            else:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _rename(old_parent: int, old: str, new_parent: int, new: str) -> bool:
    """Renames an entry to a free name; False where that is on another file system."""
    from packhorse.linux import syscalls  # the short-lived children that remove trees do without

    try:
        syscalls.rename_noreplace(old_parent, old, new_parent, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


class Unfinished(Exception):
    """There is more to remove than there is patience for."""


class Patience:
    """How much is removed while somebody waits: `entries`, however long they take, and for `seconds`.

    A megabyte counts as an entry too: to give back its blocks takes as long.
    """

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._until = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """The seconds pass in this block."""
        began = monotonic()
        self._until = began + self._seconds
        try:
            yield
        finally:
            self._seconds -= monotonic() - began

    def spend(self, status: os.stat_result) -> None:
        """Takes note of an entry that is to be removed; raises Unfinished when that is one too many."""
        self._entries -= 1 + (status.st_blocks // _BLOCKS if status.st_nlink == 1 else 0)
        if self._entries < 0 and monotonic() > self._until:
            raise Unfinished


def remove(parent: int, name: str, *, patience: Patience | None = None) -> int:
    """Removes the entry `name` of the directory `parent` and all below it, at any depth; a missing one is no
    error.

    Answers how many bytes of disk that freed: those of files that had no other name left. Directories without
    the permission to empty them are given it (Go's module cache, an overlay's work directory). Raises
    Unfinished when `patience` ends before all is gone.
    """
    pending = [name]
    freed = 0
    while pending:
        freed += _remove(parent, pending.pop(), pending, patience)
    return freed


def _remove(top: int, start: str, pending: list[str], patience: Patience | None) -> int:
    freed = 0
    with Walk(top, [start], edit=True, missing_ok=True) as walk:
        for directory, name, status, is_done in walk:
            if is_done:
                os.rmdir(name, dir_fd=directory)
                continue
            if patience is not None:
                patience.spend(status)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=directory)
                freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
                continue
            if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                let_owner_in(directory, name)
            if walk.depth > _HELD:
                if patience is not None:
                    raise Unfinished  # what is moved to the top would have to be found again
                # Too deep for one chain of descriptors: it continues from the top, under a name nothing else
                # has.
                moved = f".{status.st_dev:x}-{status.st_ino:x}"
                os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
                pending.append(moved)
                walk.skip()
            else:
                freed += status.st_blocks * 512
    return freed


def let_owner_in(parent: int, name: str) -> None:
    """Gives the owner of the directory `name` all permissions, if we may; OSError for anything else, a link
    among it.

    What sweeps up after a killed command may meet its step, which is just dying and puts links in the way.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(name, flags, dir_fd=parent)) as held, suppress(PermissionError):
        os.chmod(f"/proc/self/fd/{held}", 0o700)
