"""③ A layer of many files that is packed from pieces of the tar that it was before.

What is below a directory stands together in a tar, since its entries are in byte order of their paths. Where
nothing has changed there, at any depth, its bytes are copied, and no file of it is looked at. That is told by
a stamp of each directory (`source.survey`). Called by `slices`, while it goes through a directory; made in
`platform`, which knows the stamps and has the tar.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from packhorse.layers.tree import Packed, Position

Read = Callable[[int, int], Iterator[bytes]]
"""The bytes of a tar from one offset to before another, in chunks."""


class Piece(NamedTuple):
    """All that is below a directory: where in the tar it starts and ends, in bytes, and the directory's
    stamp, which tells what was directly in it.
    """

    stamp: str
    start: int
    end: int


class Pieces:
    """What the directories of a layer were packed to, and what they become, by their paths below its own.

    `stamps` has that of each directory now. Only one that `is_plain`, with all below it, is what its stamp
    was made of. `former` has the pieces of the tar that `read` reads.
    """

    def __init__(
        self,
        stamps: Mapping[str, str],
        is_plain: Callable[[str], bool],
        former: Mapping[str, Piece],
        read: Read,
    ) -> None:
        self._stamps = stamps
        self._is_plain = is_plain
        self._former = former
        self._read = read
        self._changed = _changed(stamps, former)
        self._below: dict[str, list[str]] | None = None
        self.position = Position()
        self.made: dict[str, Piece] = {}

    def unchanged(self, path: str) -> Packed | None:
        """What now comes of everything below a directory, where it is what came of it before; else None."""
        if path in self._changed or path not in self._stamps or not self._is_plain(path):
            return None
        _, start, end = self._former[path]
        moved = self.position.bytes - start
        waiting = [path]
        while waiting:
            here = waiting.pop()
            piece = self._former[here]
            self.made[here] = Piece(piece.stamp, piece.start + moved, piece.end + moved)
            waiting += self._directories(here)
        return Packed(f"{path}/", partial(self._read, start, end))

    def packed(self, path: str, start: int) -> None:
        """Says that everything below a directory was packed, from `start` up to here."""
        if path in self._stamps and self._is_plain(path):
            self.made[path] = Piece(self._stamps[path], start, self.position.bytes)

    def _directories(self, path: str) -> list[str]:
        """Those directly in a directory."""
        if self._below is None:
            self._below = {}
            for each in self._stamps:
                if each:
                    self._below.setdefault(posixpath.dirname(each), []).append(each)
        return self._below.get(path, [])


def _changed(stamps: Mapping[str, str], former: Mapping[str, Piece]) -> set[str]:
    """The directories below which something, at any depth, is not as it was. One that is no more is seen by
    the stamp of that above it.
    """
    changed = set[str]()
    for path, stamp in stamps.items():
        known = former.get(path)
        if known is None or known.stamp != stamp:
            while path not in changed:
                changed.add(path)
                path = posixpath.dirname(path)  # of the top: the top
    return changed
