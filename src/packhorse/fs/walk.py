"""Walks, moves and removes entries below a directory descriptor, without following a link.

The other modules of this folder use it, and so do `store` and the children that remove trees. It checks no
permissions: the caller decides which tree it may edit, and as which user.
"""

# Pathlib has no functions for descriptors.
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
"""The deepest level that a walk enters.

Each level needs one open descriptor, or two if a second tree is walked beside it. A process usually may have
1024.
"""
_HELD = 200
"""The deepest level of which a removal holds the descriptors. It is lower because the caller holds others."""
_BLOCKS = (1 << 20) // 512  # blocks of lstat(2) in a megabyte


@contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """Closes `descriptor` at the end of the block."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Chain:
    """Holds open directories, each inside the one before it. A context manager that closes all but `top`.

    `here` is the descriptor of the deepest one. With `edit`, it changes the mode of a directory that denies
    its owner access. Otherwise a child process opens such a directory, and its mode stays (`fs.shut`).
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
        """The number of open directories below the top."""
        return len(self._above)

    def enter(self, name: str) -> None:
        """Opens the directory `name` inside the deepest one. Raises OSError if it is no directory."""
        if self._edit:
            inner = open_directory(self.here, name)
        else:
            inner = shut.open_entry(self.here, name, os.O_RDONLY | os.O_DIRECTORY)
        self._above.append(self.here)
        self.here = inner

    def leave(self) -> None:
        """Closes the deepest directory."""
        left, self.here = self.here, self._above.pop()
        os.close(left)


Visit = tuple[int, str, os.stat_result, bool]
"""An entry: the descriptor of its directory, its name, its lstat(2), and whether all below it was visited."""


class Walk(Chain):
    """Iterates over the entries `names` of a directory (default: all) and over everything below them.

    It visits a directory before its entries, and once more after them. The order of entries is that of the
    file system. It follows no link and opens no path of several names. With `missing_ok` it skips entries
    that are removed meanwhile. Raises OSError, and TreeError for a tree of more than DEEPEST levels.
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
        """Skips everything below the directory just visited, and the second visit to it."""
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
                f"{name[:100]} is nested more than {DEEPEST} deep", why="packhorse reads no deeper tree"
            )
        try:
            self.enter(name)
        except FileNotFoundError:
            if self._missing_ok:
                return False
            raise
        return True


def stat_existing(directory: int, name: str) -> os.stat_result | None:
    """The lstat(2) of an entry, None if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _status(directory: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def open_directory(parent: int, name: str) -> int:
    """Opens the directory `name` of `parent`, if necessary after giving its owner permission."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        let_owner_in(parent, name)
        return os.open(name, flags, dir_fd=parent)


def move(old_parent: int, old: str, new_parent: int, new: str) -> None:
    """Moves an entry to an unused name. If a directory cannot be renamed (EXDEV), moves its entries."""
    with Walk(old_parent, [old], edit=True) as walk, Chain(new_parent, edit=True) as target:
        for directory, name, status, is_done in walk:
            if is_done:
                os.fchmod(target.here, stat.S_IMODE(status.st_mode))
                os.utime(target.here, ns=(status.st_atime_ns, status.st_mtime_ns))
                target.leave()
                os.rmdir(name, dir_fd=directory)
                continue
            new_name = name if walk.depth else new
            if _rename(directory, name, target.here, new_name):
                walk.skip()
            elif stat.S_ISDIR(status.st_mode):
                os.mkdir(new_name, 0o700, dir_fd=target.here)
                target.enter(new_name)
            else:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _rename(old_parent: int, old: str, new_parent: int, new: str) -> bool:
    """Renames an entry to an unused name; False if the kernel answers EXDEV."""
    from packhorse.linux import syscalls  # only this function needs it; it loads ctypes

    try:
        syscalls.rename_noreplace(old_parent, old, new_parent, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


class BudgetExceeded(Exception):
    """A removal has used up its budget, and entries are left."""


class RemovalBudget:
    """Limits how much a command removes while a user waits: `entries`, and more while `seconds` last.

    A megabyte counts as an entry too, because freeing its blocks takes as long.
    """

    def __init__(self, entries: int, seconds: float) -> None:
        self._entries = entries
        self._seconds = seconds
        self._until = 0.0

    @contextmanager
    def count_time(self) -> Iterator[None]:
        """Counts the time in this block as spent."""
        began = monotonic()
        self._until = began + self._seconds
        try:
            yield
        finally:
            self._seconds -= monotonic() - began

    def spend(self, status: os.stat_result) -> None:
        """Counts an entry before it is removed; raises BudgetExceeded if it is one too many."""
        self._entries -= 1 + (status.st_blocks // _BLOCKS if status.st_nlink == 1 else 0)
        if self._entries < 0 and monotonic() > self._until:
            raise BudgetExceeded


def remove(parent: int, name: str, *, budget: RemovalBudget | None = None) -> int:
    """Removes the entry `name` of the directory `parent`, and everything below it at any depth.

    Returns the bytes of disk that this freed; a file with another name left frees none. A missing entry is no
    error. It changes the mode of directories that it may not empty (Go's module cache, an overlay's work
    directory). Raises OSError, and BudgetExceeded if the budget runs out before everything is gone.
    """
    pending = [name]
    freed = 0
    while pending:
        freed += _remove(parent, pending.pop(), pending, budget)
    return freed


def _remove(top: int, start: str, pending: list[str], budget: RemovalBudget | None) -> int:
    freed = 0
    with Walk(top, [start], edit=True, missing_ok=True) as walk:
        for directory, name, status, is_done in walk:
            if is_done:
                os.rmdir(name, dir_fd=directory)
                continue
            if budget is not None:
                budget.spend(status)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=directory)
                freed += status.st_blocks * 512 if status.st_nlink == 1 else 0
                continue
            if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                let_owner_in(directory, name)
            if walk.depth > _HELD:
                if budget is not None:
                    raise BudgetExceeded  # a later removal would not find what is moved to the top
                # Too deep for one chain of descriptors: move it to the top, under a name that nothing else
                # has, and continue there.
                moved = f".{status.st_dev:x}-{status.st_ino:x}"
                os.rename(name, moved, src_dir_fd=directory, dst_dir_fd=top)
                pending.append(moved)
                walk.skip()
            else:
                freed += status.st_blocks * 512
    return freed


def let_owner_in(parent: int, name: str) -> None:
    """Gives the owner of the directory `name` all permissions, if this process may.

    Raises OSError if it is no directory. It opens the directory before it changes the mode: a process of a
    killed command may still run and replace the directory by a link.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(name, flags, dir_fd=parent)) as held, suppress(PermissionError):
        os.chmod(f"/proc/self/fd/{held}", 0o700)
