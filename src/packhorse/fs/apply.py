"""Applies one unpacked layer to the tree of the layers below it (image-spec layer.md, "Applying Changesets").

It removes the entries that the layer hides, then links the layer's own entries into the tree. Whiteouts hide
only entries of the layers below, wherever they stand in the archive. If the archive has `bin/x` and no entry
for `bin`, then `bin` stays what it is below, even a link such as `bin -> usr/bin`; docker and containerd do
the same. This code resolves links itself, with the tree as their root. `store.userns_worker` calls it to
merge layers. `fs.overlay` merges trees that have an overlay's marks.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum

from packhorse.base.dataclass import dataclass
from packhorse.errors import TreeError
from packhorse.fs import overlay, walk

_DEPTH = 300  # two descriptors a level, and 1024 of them are usual
_STEPS = 1024  # the most names that resolving one link may look up
_WHITEOUT = ".wh."

TreePath = list[str]
"""The names on the way from the top of a tree to a directory. None of them is a link."""


@dataclass(frozen=True, slots=True)
class Changeset:
    """What an unpacked layer hides and implies (`tar.unpack.UnpackResult`); paths are relative to its top."""

    whiteouts: Sequence[str]
    opaque: Sequence[str]
    implied: frozenset[str]

    def apply(self, source: int, target: int) -> int:
        """Applies the unpacked layer in the directory `source` to the tree `target`, both descriptors.

        Returns the number of the layer's entries. Afterwards the two trees share files by hard links. Raises
        OSError. Raises TreeError for links that lead nowhere, for a name that only a whiteout may have, and
        for directories nested too deep.
        """
        applied = _LayerApplier(source, target, self.implied)
        top = os.fstat(target if "" in self.implied else source)
        for path in self.opaque:
            applied.hide(path)
        for path in self.whiteouts:
            above, _, name = path.rpartition("/")
            applied.hide(above, name)
        try:
            count = applied.apply()
        except (FileNotFoundError, NotADirectoryError) as error:
            why = "it is reached through a link, and removed by an entry that lies in it"
            raise TreeError("a directory of the layer is gone", why=why) from error
        overlay.copy_metadata(target, top)
        return count


class _LayerApplier:
    """Applies the layer below the descriptor `layer` to the tree below the descriptor `root`."""

    def __init__(self, layer: int, root: int, implied: frozenset[str]) -> None:
        self._layer = layer
        self._root = root
        self._implied = implied
        self._deferred: deque[tuple[str, TreePath]] = deque()

    def hide(self, path: str, name: str = "") -> None:
        """Removes entries of the lower layers from the layer's directory `path`: `name`, or all with ""."""
        where = self._find_below(path)
        if where is not None:
            with _open_directory(self._root, where) as directory:
                before = os.fstat(directory)
                os.fchmod(directory, 0o700)  # as in _fill
                for hidden in [name] if name else os.listdir(directory):  # noqa: PTH208 -- a descriptor
                    walk.remove(directory, hidden)
                overlay.copy_metadata(directory, before)

    def apply(self) -> int:
        """Applies all entries of the layer; returns their number.

        Directories behind links come last, because the layer may have the directories that the links lead to.
        """
        count = self._apply_entries(self._layer, self._root, "", [])
        while self._deferred:
            path, where = self._deferred.popleft()
            with _open_directory(self._root, where[:-1]) as parent:
                link = os.readlink(where[-1], dir_fd=parent)
            place = self._follow_or_make(where[:-1], link)
            with (
                _open_directory(self._layer, path.split("/")) as source,
                _open_directory(self._root, place) as directory,
            ):
                count += self._fill(source, directory, path, place, like=directory)
        return count

    def _apply_entries(self, source: int, target: int, path: str, where: TreePath) -> int:
        """Applies the entries of `source`, the layer's directory `path`, to `target`, which is at `where`."""
        if path.count("/") >= _DEPTH:
            raise TreeError(f"{path[:100]}… is nested more than {_DEPTH} deep", why="it cannot be applied")
        count = 0
        for name in sorted(os.listdir(source)):
            below = f"{path}/{name}" if path else name
            if name.startswith(_WHITEOUT):
                raise TreeError(f"{below[:200]} is a whiteout", why="no layer has a file of such a name")
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                with overlay.open_subdirectory(source, name) as inner:
                    count += self._apply_directory(inner, target, below, [*where, name])
            else:
                if _mode(target, name) is not None:
                    walk.remove(target, name)
                os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            count += 1
        return count

    def _apply_directory(self, source: int, parent: int, path: str, where: TreePath) -> int:
        """Applies the layer's directory `path` to the entry at `where`, which is in `parent`."""
        name, implied = where[-1], path in self._implied
        mode = _mode(parent, name)
        if mode is not None and stat.S_ISLNK(mode) and implied:
            self._deferred.append((path, where))
            return 0
        there = mode is not None and stat.S_ISDIR(mode)
        if not there:
            if mode is not None and implied:
                raise TreeError(f"{path[:200]} is not a directory", why="an entry of the layer lies below it")
            if mode is not None:
                walk.remove(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent)
        with overlay.open_subdirectory(parent, name) as directory:
            return self._fill(source, directory, path, where, like=directory if implied and there else source)

    def _fill(self, source: int, target: int, path: str, where: TreePath, *, like: int) -> int:
        """Applies a directory's entries, and gives it the owner, mode and times that `like` has now."""
        status = os.fstat(like)
        os.fchmod(target, 0o700)  # an owner without privilege cannot fill a directory of mode 0555
        count = self._apply_entries(source, target, path, where)
        overlay.copy_metadata(target, status)
        return count

    def _find_below(self, path: str) -> TreePath | None:
        """Finds the directory that the layer's `path` leads to in the layers below; None if there is none."""
        where: TreePath = []
        parts = path.split("/") if path else []
        for number, name in enumerate(parts, 1):
            kind, link = self._inspect(where, name)
            if kind is _EntryKind.LINK and not self._replaces(parts[:number]):
                found = self._follow(where, link, make=False)
                if found is None:
                    return None
                where = found
            elif kind is _EntryKind.DIRECTORY:
                where = [*where, name]
            else:
                return None
        return where

    def _replaces(self, path: TreePath) -> bool:
        """Whether the layer has its own entry for the directory `path`, which replaces the lower one."""
        if "/".join(path) in self._implied:
            return False
        with suppress(FileNotFoundError, NotADirectoryError), _open_directory(self._layer, path):
            return True
        return False

    def _follow_or_make(self, where: TreePath, link: str) -> TreePath:
        """Finds the directory that a link in `where` leads to; makes the missing directories."""
        found = self._follow(where, link, make=True)
        if found is None:
            raise TreeError(
                f"a link to {link[:200]} does not lead to a directory", why="the layer lies below it"
            )
        return found

    def _follow(self, where: TreePath, link: str, *, make: bool) -> TreePath | None:
        pending = [link]
        for _ in range(_STEPS):
            if not pending:
                return where
            text = pending.pop()
            if text.startswith("/"):
                where = []
            name, slash, rest = text.lstrip("/").partition("/")
            if slash:
                pending.append(rest.lstrip("/"))
            if name == "..":
                where = where[:-1]
            elif name and name != ".":
                kind, inner = self._inspect(where, name)
                if kind is _EntryKind.LINK:
                    pending.append(inner)
                    continue
                if kind is _EntryKind.NOTHING and make:
                    self._make(where, name)
                elif kind is not _EntryKind.DIRECTORY:
                    return None
                where = [*where, name]
        raise TreeError(f"a link to {link[:200]} leads through too many links")

    def _inspect(self, where: TreePath, name: str) -> tuple[_EntryKind, str]:
        """The kind of the entry `name` in `where`, and its target if it is a link."""
        with _open_directory(self._root, where) as directory:
            mode = _mode(directory, name)
            if mode is not None and stat.S_ISLNK(mode):
                return _EntryKind.LINK, os.readlink(name, dir_fd=directory)
        if mode is None:
            return _EntryKind.NOTHING, ""
        return (_EntryKind.DIRECTORY if stat.S_ISDIR(mode) else _EntryKind.OTHER), ""

    def _make(self, where: TreePath, name: str) -> None:
        with _open_directory(self._root, where) as directory:
            before = os.fstat(directory)
            os.fchmod(directory, 0o700)
            os.mkdir(name, 0o700, dir_fd=directory)
            with overlay.open_subdirectory(directory, name) as made:
                os.fchmod(made, 0o755)
            overlay.copy_metadata(directory, before)


class _EntryKind(Enum):
    """The kind of an entry in the tree of the layers below."""

    NOTHING = "nothing"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "something else"


def _mode(directory: int, name: str) -> int | None:
    status = walk.stat_existing(directory, name)
    return None if status is None else status.st_mode


@contextmanager
def _open_directory(root: int, where: TreePath) -> Iterator[int]:
    """Opens the directory at `where` below `root`, one name after another, through no link."""
    descriptor = os.dup(root)
    try:
        for name in where:
            with overlay.open_subdirectory(descriptor, name) as below:
                os.dup2(below, descriptor, inheritable=False)
        yield descriptor
    finally:
        os.close(descriptor)
