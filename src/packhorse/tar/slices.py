"""Divides an application directory into slices, and reuses parts of the last build's tar.

Slices are in buildpack.md, B-081 to B-086. `lifecycle.export` calls `divide` to learn which entry goes into
which layer; `tar.writer` makes the bytes.

Entries of a tar are in byte order of their paths, so the content of a directory is one contiguous piece. If
nothing below a directory has changed, its piece is copied and its files are not read. A stamp of each
directory, made before packing (`source.files`), shows whether something has changed.
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
"""The former tar is used only if at least a quarter of it can be copied: all of it is read to verify it."""


class Piece(NamedTuple):
    """The part of a tar with everything below a directory: its first byte, its end, the directory's stamp.

    The stamp covers the entries directly in the directory.
    """

    stamp: str
    start: int
    end: int


class FormerSlice(NamedTuple):
    """A layer of the last build: its pieces by directory, the length of its tar, and a function to read it.

    Directories are relative to the application, "" for itself. `read` takes a start and an end in bytes, and
    returns that part in chunks.
    """

    pieces: Mapping[str, Piece]
    size: int
    read: Callable[[int, int], Iterator[bytes]]


class Pieces:
    """Finds the pieces of the last tar that can be copied, and notes those of the new tar in `made`.

    `stamps` has the present stamp of each directory of the source, empty if unknown. `is_plain` says whether
    a directory of the layer, with everything below it, is the source's own: no buildpack has written there
    or removed anything.
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
        """The former bytes of everything below the directory `path` if nothing there changed, else None."""
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
        """Notes the entries of a directory that are packed. If its stamp covers others, it makes no piece."""
        known = self._stamps.get(path)
        if known and stamp([_stamp_entry(node) for node in nodes]) == known:
            self._as_stamped.add(path)

    def note_packed(self, path: str, start: int) -> None:
        """Notes that everything below a directory is in the tar, from `start` up to `position`."""
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
    mode = FORMATS.get(node.kind, 0) | node.mode  # 0, a kind that no stamp has, never matches
    if node.kind is NodeKind.DIRECTORY:
        return node.name, mode, 0, 0, 0, 0
    return node.name, mode, node.size, node.mtime_ns, node.ctime_ns, node.inode


def _changed_directories(stamps: Mapping[str, str], former: Mapping[str, Piece]) -> set[str]:
    """The directories in which, or at any depth below which, something has changed.

    The stamp of a directory changes too if a directory in it is gone.
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
    """The entries of one layer, in byte order of their paths; none if no entry matched the slice.

    A caller may iterate over them several times. Each time it has to set `position` to the length of the tar
    so far, before it takes an entry (as `tar.writer.stream` does).
    """

    entries: Iterable[Found | PackedTree]
    position: Position | None = None


def divide(
    view: TreeView, directory: str, slices: Sequence[Sequence[Glob]], pieces: Pieces | None = None
) -> list[Slice]:
    """Makes one slice for each list of globs, and a last one with all other entries.

    A directory that matches a glob comes with everything below it. Each entry comes with the directories
    above it. If there are no globs, the last slice uses `pieces`. Raises FormatError for a malformed glob.
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
            raise FormatError(f"{found.path} cannot be divided", why="this is a defect of packhorse")
        yield found


def check_globs(globs: Sequence[Glob]) -> None:
    """Raises FormatError if one of `globs` is malformed."""
    for glob in globs:
        _compile(glob)


class _Directory:
    """All entries of an application directory, of which each slice takes some."""

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
    """Iterates over a directory and everything below it, in byte order of paths.

    It reads one directory at a time, while the caller iterates, so memory does not limit the number of files.
    It does not read directories of which `pieces` has an unchanged piece.
    """

    def __init__(self, view: TreeView, directory: str, pieces: Pieces) -> None:
        root = view.stat(directory, follow=True)
        if root is None or root.kind is not NodeKind.DIRECTORY:
            raise FormatError(f"{directory} is not a directory", why="there is no application to export")
        self._view = view
        self._directory = directory
        self._root = root
        self._pieces = pieces

    def __iter__(self) -> Iterator[Found | PackedTree]:
        pieces = self._pieces
        yield "", self._root
        waiting = [("", 0, iter(self._list_directory("")))]
        while waiting:
            above, start, rest = waiting[-1]
            for path, node in rest:
                if node is not None:
                    yield path, node
                elif unchanged := pieces.find_unchanged(path[:-1]):
                    yield unchanged
                else:
                    waiting.append((path, pieces.position.bytes, iter(self._list_directory(path))))
                    break
            else:
                waiting.pop()
                pieces.note_packed(above[:-1], start)

    def _list_directory(self, start: str) -> Sequence[tuple[str, Node | None]]:
        """The entries of one directory, in order; each directory appears twice.

        First with its node, then with a slash at the end and None, where the entries below it belong. Others
        may come between: `a`, `a-b`, `a/b`.
        """
        nodes = self._view.list(f"{self._directory}/{start}".rstrip("/"))
        self._pieces.note_listed(start[:-1], nodes)
        found: list[tuple[str, Node | None]] = [(start + node.name, node) for node in nodes]
        directories = [(f"{path}/", None) for path, node in found if node and node.kind is NodeKind.DIRECTORY]
        if directories:
            found += directories
            # ASCII text sorts as its bytes do, without a slower key function.
            plain = all(path.isascii() for path, _ in found)
            found.sort(key=itemgetter(0) if plain else lambda one: os.fsencode(one[0]))
        return found


def _parents(path: str) -> Iterator[str]:
    while path:
        path = posixpath.dirname(path)
        yield path


def _compile(glob: Glob) -> re.Pattern[str]:
    """Translates a glob of Go's filepath.Match (B-082) to a regular expression.

    As in Go, the text between two stars matches at the first place it is found, without backtracking
    (`(?>…)`). With backtracking, a glob of thirty stars would take years.
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
    """Translates the bracket expression whose `[` is before `index`; also returns the index after it."""
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
