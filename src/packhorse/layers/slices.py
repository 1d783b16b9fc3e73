"""③ Divides an application directory into slices (buildpack.md "Slices", B-081 to B-086).

Called by lifecycle.export. Which entries are in which layer is decided here; their bytes are `layers.tar`'s.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

from packhorse.base.dataclass import dataclass
from packhorse.base.tree import Node, NodeKind, TreeView
from packhorse.errors import FormatError
from packhorse.layers.pieces import Pieces
from packhorse.layers.tree import Found, PackedTree, Position

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
