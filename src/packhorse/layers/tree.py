"""③ Directories as the entries of a layer, in the order and with the owners that the reference gives them.

Called by lifecycle's export and cache; `layers.tar` turns the entries into bytes. Entries above a layer's
directory and those of the launcher layers are made by the caller (`TarEntry.directory` and its siblings),
never from stat: what the host has there must not reach a digest (reference: lifecycle v0.21 `layers/`,
`archive/`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, Self

from packhorse.base.tree import Node, NodeKind, TreeView
from packhorse.errors import TreeError

Found = tuple[str, Node]
"""A path below some directory ("" for itself), and the entry there."""


class TarEntry(NamedTuple):
    """One entry of a layer; a tuple, as `Node` is. `name` is absolute, and has no slash at its end.

    `mode` has the twelve permission bits. A file has `size`, in bytes, and of these it is told where they
    are `at`, a tree and the path in it, or what starts a pass over them (`open`). `link` is a link's target.
    Text is decoded with surrogateescape.
    """

    name: str
    kind: NodeKind
    mode: int
    uid: int
    gid: int
    size: int = 0
    link: str = ""
    open: Callable[[], BinaryIO] | None = None
    at: tuple[TreeView, str] | None = None

    @classmethod
    def directory(cls, name: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Self:
        """A directory that no tree has, such as a parent of a layer."""
        return cls(name, NodeKind.DIRECTORY, mode, uid, gid)

    @classmethod
    def symlink(cls, name: str, target: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Self:
        """A link that no tree has."""
        return cls(name, NodeKind.LINK, mode, uid, gid, link=target)

    @classmethod
    def file(cls, name: str, size: int, open: Callable[[], BinaryIO], *, mode: int = 0o755) -> Self:
        """A file of root's that comes from elsewhere, such as the launcher."""
        return cls(name, NodeKind.FILE, mode, 0, 0, size=size, open=open)


class PackedTree(NamedTuple):
    """In the place of all entries below a directory, the bytes that they were in a tar before.

    `path` is the directory's, with a slash at its end: behind it they stand, as a `Found` behind its own.
    """

    path: str
    chunks: Callable[[], Iterator[bytes]]


class Position:
    """How many bytes of a tar there are so far."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


def directory_entries(
    view: TreeView, path: str, *, uid: int, gid: int, parents: Sequence[TarEntry] = ()
) -> Iterator[TarEntry]:
    """The layer made of the directory `path`: `parents`, then the directory and all below it, of one owner.

    An entry whose name is among `parents` is written once, as it is there. Sockets and devices are left out.
    Raises TreeError when `path` is not a directory.
    """
    yield from parents
    make = _entry_maker(view, path, uid, gid, parents)
    for found in _walk(view, path):
        entry = make(*found)
        if entry is not None:
            yield entry


def selected_entries(
    view: TreeView,
    path: str,
    found: Iterable[Found | PackedTree],
    *,
    uid: int,
    gid: int,
    parents: Sequence[TarEntry] = (),
) -> Iterator[TarEntry | PackedTree]:
    """The layer made of what was `found` below `path`, and no more: `parents`, then the rest in its order.

    It is empty, without even `parents`, when nothing was found (B-085). Owners and doubles as in
    `directory_entries`.
    """
    make = _entry_maker(view, path, uid, gid, parents)
    is_first = True
    for one in found:
        if is_first:
            yield from parents
            is_first = False
        entry = one if isinstance(one, PackedTree) else make(*one)
        if entry is not None:
            yield entry


def _walk(view: TreeView, path: str) -> Iterator[Found]:
    """Everything from `path` down: a directory before its entries, those in byte order, no link followed."""
    top = view.stat(path)
    if top is None or top.kind is not NodeKind.DIRECTORY:
        raise TreeError(f"{path} is not a directory", why="a layer is made of a directory")
    stack = [("", top)]
    while stack:
        here, node = stack.pop()
        yield here, node
        if node.kind is NodeKind.DIRECTORY:
            prefix = f"{here}/" if here else ""
            stack += ((prefix + child.name, child) for child in reversed(view.list(_join(path, here))))


def _join(path: str, below: str) -> str:
    return f"{path}/{below}" if below else path


def _entry_maker(
    view: TreeView, path: str, uid: int, gid: int, parents: Sequence[TarEntry]
) -> Callable[[str, Node], TarEntry | None]:
    """Makes the entry of what is below `path`; None of what is among `parents`, and of what no layer has."""
    written = {parent.name for parent in parents}

    def make(below: str, node: Node) -> TarEntry | None:
        name = _join(path, below)
        if name in written:
            return None
        match node.kind:
            case NodeKind.FILE:
                return TarEntry(name, NodeKind.FILE, node.mode, uid, gid, node.size, "", None, (view, name))
            case NodeKind.LINK:
                return TarEntry(name, NodeKind.LINK, node.mode, uid, gid, link=view.readlink(name))
            case NodeKind.DIRECTORY | NodeKind.FIFO:
                return TarEntry(name, node.kind, node.mode, uid, gid)
        return None

    return make
