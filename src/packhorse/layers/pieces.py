"""③ A layer of many files that is packed from pieces of the tar that it was before.

What is below a directory stands together in a tar, since its entries are in byte order of their paths. Where
nothing has changed there, at any depth, its bytes are copied, and no file of it is looked at. That is told by
a stamp of each directory, made before anything was packed (`source.survey`). Called by `slices`, while it
goes through a directory; made in `platform`, which knows the stamps and has the tar.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from packhorse.base.stamp import Entry, stamp
from packhorse.base.tree import FORMATS, Node, NodeKind
from packhorse.layers.tree import PackedTree, Position

_WORTH = 4
"""A tar is read and hashed whole, even for one piece: with less than a quarter to copy it is left alone."""


class Piece(NamedTuple):
    """All that is below a directory: where in the tar it starts and ends, in bytes, and the directory's
    stamp, which tells what was directly in it.
    """

    stamp: str
    start: int
    end: int


class FormerSlice(NamedTuple):
    """A layer as it was packed before: its pieces by the paths of directories ("" for the layer's own, else
    below it), the length of its tar, and what reads that from one offset to before another, in chunks.
    """

    pieces: Mapping[str, Piece]
    size: int
    read: Callable[[int, int], Iterator[bytes]]


class Pieces:
    """What the directories of a layer were packed to, and what they become.

    `stamps` has that of each directory of the source as it is now, empty where it is not known. `is_plain`
    says of a directory of the layer whether it is the source's, with all below it: nothing is hidden in it,
    or written over it.
    """

    def __init__(
        self, stamps: Mapping[str, str], is_plain: Callable[[str], bool], former: FormerSlice | None
    ) -> None:
        self._stamps = stamps
        self._is_plain = is_plain
        self._below: dict[str, list[str]] = {}
        for path in stamps:
            if path:
                self._below.setdefault(posixpath.dirname(path), []).append(path)
        self._changed = _changed_directories(stamps, former.pieces if former else {})
        self._former = former if former and self._is_worthwhile(former) else None
        self._as_stamped: set[str] = set()
        self.position = Position()
        self.made: dict[str, Piece] = {}

    def find_unchanged(self, path: str) -> PackedTree | None:
        """What now comes of everything below a directory, where it is what came of it before; else None."""
        former = self._former
        if former is None or path in self._changed or path not in self._stamps or not self._is_plain(path):
            return None
        _, start, end = former.pieces[path]
        moved = self.position.bytes - start
        waiting = [path]
        while waiting:
            here = waiting.pop()
            piece = former.pieces[here]
            self.made[here] = Piece(piece.stamp, piece.start + moved, piece.end + moved)
            waiting += self._below.get(here, ())
        return PackedTree(f"{path}/", partial(former.read, start, end))

    def note_listed(self, path: str, nodes: Sequence[Node]) -> None:
        """Says which entries of a directory are packed; if its stamp was made of others, it is no piece."""
        known = self._stamps.get(path)
        if known and stamp([_stamp_entry(node) for node in nodes]) == known:
            self._as_stamped.add(path)

    def note_packed(self, path: str, start: int) -> None:
        """Says that everything below a directory was packed, from `start` up to here."""
        if path in self._as_stamped:
            self.made[path] = Piece(self._stamps[path], start, self.position.bytes)

    def _is_worthwhile(self, former: FormerSlice) -> bool:
        reused, waiting = 0, [""]
        while waiting:
            for path in self._below.get(waiting.pop(), ()):
                if path in self._changed:
                    waiting.append(path)
                else:
                    reused += former.pieces[path].end - former.pieces[path].start
        return reused * _WORTH >= former.size


def _stamp_entry(node: Node) -> Entry:
    mode = FORMATS.get(node.kind, 0) | node.mode  # 0: no stamp has that
    if node.kind is NodeKind.DIRECTORY:
        return node.name, mode, 0, 0, 0, 0
    return node.name, mode, node.size, node.mtime_ns, node.ctime_ns, node.inode


def _changed_directories(stamps: Mapping[str, str], former: Mapping[str, Piece]) -> set[str]:
    """The directories below which something, at any depth, is not as it was. One that is no more is seen by
    the stamp of that above it.
    """
    changed = set[str]()
    for path, now in stamps.items():
        known = former.get(path)
        if known is None or known.stamp != now:
            while path not in changed:
                changed.add(path)
                path = posixpath.dirname(path)  # of the top: the top
    return changed
