"""Divides an application directory into slices, and packs them from pieces of their last tar where it can.

Slices: buildpack.md, B-081 to B-086. `lifecycle.export` decides here which entry goes into which layer;
`tar.writer` makes the bytes.

Entries of a tar are in byte order of their paths, so the content of a directory is one contiguous piece. If
nothing changed in a directory at any depth, the piece is copied and no file is looked at. A stamp of each
directory, made before packing (`source.files`), tells whether something changed.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from packhorse.base.dataclass import dataclass
from packhorse.base.tree import FORMATS, Node, NodeKind, TreeView
from packhorse.errors import FormatError
from packhorse.fs.compare import Entry, stamp
from packhorse.tar.writer import Found, PackedTree, Position

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


Glob = str


@dataclass(frozen=True, slots=True)
class Slice:
    """The entries of one layer, in byte order of their paths; none for a slice that matched nothing.

    They may be gone through several times, by who tells `position` how long the tar of them is.
    """

    entries: Iterable[Found | PackedTree]
    position: Position | None = None


def divide(
    view: TreeView, directory: str, slices: Sequence[Sequence[Glob]], pieces: Pieces | None = None
) -> list[Slice]:
    """One slice for each list of globs, and one, last, with everything that is left.

    A directory that a glob matches brings all below it; a taken file brings the directories above it along.
    Where no glob divides it, that last is made with the `pieces` of it there are. Raises FormatError for a
    malformed glob.
    """
    if not any(slices):
        pieces = pieces or _no_pieces()
        whole = Slice(_TreeEntries(view, directory, pieces), pieces.position)
        return [*(Slice(()) for _ in slices), whole]
    tree = _Directory(_list_found(_TreeEntries(view, directory, _no_pieces())))
    divided = [tree.take([_compile(glob) for glob in globs]) for globs in slices]
    return [*divided, tree.rest()]


def _no_pieces() -> Pieces:
    return Pieces({}, lambda path: False, None)


def _list_found(everything: Iterable[Found | PackedTree]) -> Iterator[Found]:
    for found in everything:
        if isinstance(found, PackedTree):
            raise FormatError(f"{found.path} is known as a whole only", why="this is a defect of packhorse")
        yield found


def check_globs(globs: Sequence[Glob]) -> None:
    """Raises FormatError when one of `globs` is malformed."""
    for glob in globs:
        _compile(glob)


class _Directory:
    def __init__(self, found: Iterable[Found]) -> None:
        self._nodes = dict(found)
        self._children: dict[str, list[str]] = {
            path: [] for path, node in self._nodes.items() if node.kind is NodeKind.DIRECTORY
        }
        self._taken: set[str] = set()
        for path in self._nodes:
            if path:
                self._children[posixpath.dirname(path)].append(path)

    def take(self, globs: Sequence[re.Pattern[str]]) -> Slice:
        """The entries that match and are not taken yet, and the directories above them."""
        taken: set[str] = set()
        for path in self._nodes:
            if path and any(glob.fullmatch(path) for glob in globs):
                self._take(path, taken)
        above = {parent for path in taken for parent in _parents(path)} - taken
        # A directory whose children are all taken counts as taken itself; deepest first.
        for path in sorted(above, key=lambda path: (path.count("/"), bool(path)), reverse=True):
            if all(child in self._taken for child in self._children[path]):
                self._taken.add(path)
        return self._slice(taken | above)

    def rest(self) -> Slice:
        """Everything not taken yet."""
        return self._slice(self._nodes.keys() - self._taken)

    def _take(self, path: str, taken: set[str]) -> None:
        waiting = [path]
        while waiting:
            here = waiting.pop()
            if here not in self._taken:
                self._taken.add(here)
                taken.add(here)
                waiting += self._children.get(here, ())

    def _slice(self, paths: set[str]) -> Slice:
        return Slice(tuple(found for found in self._nodes.items() if found[0] in paths))


class _TreeEntries:
    """A directory and everything below it, at any depth, in byte order of paths.

    It is looked at while it is gone through, a directory at a time, so there may be any number of files. What
    there are `pieces` of is not looked at.
    """

    def __init__(self, view: TreeView, directory: str, pieces: Pieces) -> None:
        root = view.stat(directory, follow=True)
        if root is None or root.kind is not NodeKind.DIRECTORY:
            raise FormatError(
                f"{directory} is not a directory", why="so there is not an application to export"
            )
        self._view = view
        self._directory = directory
        self._root = root
        self._pieces = pieces

    def __iter__(self) -> Iterator[Found | PackedTree]:
        pieces = self._pieces
        yield "", self._root
        waiting = [("", 0, iter(self._below("")))]
        while waiting:
            above, start, rest = waiting[-1]
            for path, node in rest:
                if node is not None:
                    yield path, node
                elif unchanged := pieces.find_unchanged(path[:-1]):
                    yield unchanged
                else:
                    waiting.append((path, pieces.position.bytes, iter(self._below(path))))
                    break
            else:
                waiting.pop()
                pieces.note_packed(above[:-1], start)

    def _below(self, start: str) -> Sequence[tuple[str, Node | None]]:
        """What is in one directory, and for each directory there once more where what is in that belongs: not
        behind its name, but where a slash at its end puts it (`a`, `a-b`, `a/b`).
        """
        nodes = self._view.list(f"{self._directory}/{start}".rstrip("/"))
        self._pieces.note_listed(start[:-1], nodes)
        found: list[tuple[str, Node | None]] = [(start + node.name, node) for node in nodes]
        directories = [(f"{path}/", None) for path, node in found if node and node.kind is NodeKind.DIRECTORY]
        if directories:
            found += directories
            # Text sorts as its bytes do, but for bytes that are no text.
            plain = all(path.isascii() for path, _ in found)
            found.sort(key=itemgetter(0) if plain else lambda one: os.fsencode(one[0]))
        return found


def _parents(path: str) -> Iterator[str]:
    while path:
        path = posixpath.dirname(path)
        yield path


def _compile(glob: Glob) -> re.Pattern[str]:
    """Go's filepath.Match (B-082) as a regular expression.

    What stands between two stars is taken where it is found first, as Go does, and not looked for again
    (`(?>…)`): else a glob of thirty stars would keep the export busy for years.
    """
    pieces, index, end = [""], 0, len(cleaned := posixpath.normpath(glob))
    while index < end:
        char = cleaned[index]
        index += 1
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "[^/]"
        elif char == "[":
            piece, index = _compile_class(cleaned, index, glob)
            pieces[-1] += piece
        elif char == "\\":
            if index == end:
                raise _glob_error(glob)
            pieces[-1] += re.escape(cleaned[index])
            index += 1
        else:
            pieces[-1] += re.escape(char)
    first, *between = pieces
    if between:
        last = between.pop()
        first += "".join(f"(?>[^/]*?{piece})" for piece in between) + f"[^/]*{last}"
    return re.compile(first, re.DOTALL)


def _compile_class(text: str, index: int, glob: Glob) -> tuple[str, int]:
    """A bracket expression that begins before `index`: its regular expression, and where it ends."""
    negated = text.startswith("^", index)
    index += negated
    ranges: list[str] = []
    while not (ranges and text.startswith("]", index)):
        low, index = _compile_member(text, index, glob)
        high = low
        if text.startswith("-", index):
            high, index = _compile_member(text, index + 1, glob)
        if low <= high:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")  # an empty range matches nothing, and is no error in Go
    body = "".join(ranges)
    if not body:
        return ("." if negated else "(?!)"), index + 1
    return f"[{'^' if negated else ''}{body}]", index + 1


def _compile_member(text: str, index: int, glob: Glob) -> tuple[str, int]:
    if index < len(text) and text[index] not in "-]":
        index += text[index] == "\\"
        if index < len(text):
            return text[index], index + 1
    raise _glob_error(glob)


def _glob_error(glob: Glob) -> FormatError:
    return FormatError(
        f"{glob!r} is not a path pattern",
        why="a slice's paths follow Go's filepath.Match: * ? [class] and \\",
    )
