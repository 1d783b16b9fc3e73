"""Shows several file trees as one `TreeView`, as mounts would, but without any mount.

`BindView` shows trees at paths inside another tree, as bind mounts do. It serves commands that only read a
builder's files; mounts would take them as long as a small buildpack.

`OverlayView` shows directories over each other, as an overlay does. Through an overlay mount, reading files
takes twice as long, and unmounting takes as long again. So packhorse packs an application from the source and
the upper directory, after the last buildpack has ended. `fs.overlay` knows the marks of an overlay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from packhorse.base.sandbox import Bind
from packhorse.base.tree import Node, NodeKind, ReadHead, TreeView, read_head
from packhorse.errors import TreeError
from packhorse.fs import overlay
from packhorse.fs.rooted import RootedTree

if TYPE_CHECKING:
    from packhorse.linux.userns import IdMap


class BindView:
    """Shows the tree `root`, with the sources of `binds` at their targets (a `TreeView`). A context manager.

    The last bind with a target counts, and for a path the deepest target above it. Only the text of a path
    chooses the tree: a link leads nowhere outside its own tree.
    """

    def __init__(self, root: Path, binds: Iterable[Bind], *, idmap: IdMap) -> None:
        self._own = ExitStack()
        self._idmap = idmap
        self._root = self._open(root)
        self._seen: dict[str, tuple[TreeView, str]] = {}
        for bind in binds:
            source = bind.source.resolve()
            whole = source.is_dir()
            tree = self._open(source if whole else source.parent)
            self._seen[_normalise(bind.target)] = tree, "" if whole else f"/{source.name}"
        self._targets = sorted(self._seen, key=len, reverse=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.close()

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        """The entry at `path`, or None when there is none."""
        tree, there = self._find(path)
        name = _normalise(path).rpartition("/")[2]
        node = tree.stat(there, follow=follow)
        if node is None and self._target_names(path):
            return Node(name, NodeKind.DIRECTORY, 0o755)
        return node and node._replace(name=name)

    def list(self, path: str) -> list[Node]:
        """The entries of the directory at `path`, in byte order of their names."""
        tree, there = self._find(path)
        below = self._target_names(path)
        is_there = not below or tree.stat(there, follow=True) is not None
        nodes = {node.name: node for node in (tree.list(there) if is_there else ())}
        for name in below:
            node = self.stat(f"{path}/{name}")
            if node is not None:
                nodes[name] = node
        return [nodes[name] for name in sorted(nodes, key=os.fsencode)]

    def open(self, path: str) -> BinaryIO:
        """The regular file at `path`."""
        tree, there = self._find(path)
        return tree.open(there)

    @contextmanager
    def head_reader(self) -> Iterator[ReadHead]:
        """A function that reads the first bytes of a file."""
        yield partial(read_head, self)

    def readlink(self, path: str) -> str:
        """The target of the link at `path`."""
        tree, there = self._find(path)
        return tree.readlink(there)

    def _open(self, directory: Path) -> RootedTree:
        return self._own.enter_context(RootedTree.open_local(directory, idmap=self._idmap, whiteouts=False))

    def _find(self, path: str) -> tuple[TreeView, str]:
        """The tree that has a path, and the path in that tree."""
        plain = _normalise(path)
        for target in self._targets:
            if f"{plain}/".startswith(f"{target}/"):
                tree, start = self._seen[target]
                return tree, f"{start}{plain[len(target) :]}" or "/"
        return self._root, path

    def _target_names(self, path: str) -> set[str]:
        """The names in the directory `path` at or below which there is a target."""
        start = f"{_normalise(path).rstrip('/')}/"
        return {target[len(start) :].split("/")[0] for target in self._targets if target.startswith(start)}


def _normalise(path: str) -> str:
    """A path with a leading slash, and without empty names and dots."""
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


class OverlayView:
    """Shows `layers`, lowest first, merged at `target` (a `TreeView`). A context manager.

    It follows no link, except `open` and `head_reader` within one layer. Owners are ids of this machine.
    """

    def __init__(self, layers: Sequence[Path], target: str) -> None:
        self._target = target
        self._trees: list[RootedTree] = []
        self._marked: list[RootedTree] = []  # the same trees, with their whiteouts
        with ExitStack() as stack:
            for path in reversed(layers):
                self._trees.append(stack.enter_context(RootedTree.open_local(path, whiteouts=False)))
                self._marked.append(stack.enter_context(RootedTree.open_local(path)))
            self._own = stack.pop_all()
        self._merged: dict[str, Sequence[int]] = {"": range(len(self._trees))}
        self._entries: dict[str, dict[str, tuple[int, Node]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._own.close()

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        """The entry at `path`, or None if there is none. Raises TreeError if `follow` meets a link."""
        below = self._relative_path(path)
        if not below:
            return self._trees[0].stat("/")
        above, _, name = below.rpartition("/")
        try:
            found = self._merge_entries(above).get(name)
        except TreeError:
            return None
        if found is None:
            return None
        if follow and found[1].kind is NodeKind.LINK:
            raise TreeError(f"{path} is a link", why="this view follows none")
        return found[1]

    def list(self, path: str) -> Sequence[Node]:
        """The entries of the directory at `path`, in byte order of their names."""
        below = self._relative_path(path)
        trees = self._find_trees(below)
        if len(trees) == 1:
            return self._trees[trees[0]].list(f"/{below}")
        nodes = {name: node for name, (_, node) in self._merge_entries(below).items()}
        return [nodes[name] for name in sorted(nodes, key=os.fsencode)]

    def is_lowest(self, below: str) -> bool:
        """Whether only the lowest layer has the directory `below` ("" for the top) and its content."""
        trees = self._find_trees(below)
        return len(trees) == 1 and trees[0] == len(self._trees) - 1

    def open(self, path: str) -> BinaryIO:
        """The regular file at `path`."""
        tree, below = self._locate(path)
        return tree.open(below)

    def readlink(self, path: str) -> str:
        """The target of the link at `path`."""
        tree, below = self._locate(path)
        return tree.readlink(below)

    @contextmanager
    def head_reader(self) -> Iterator[ReadHead]:
        """A function that reads the first bytes of a file; fastest for one directory after another."""
        with ExitStack() as stack:
            cut = len(self._target)
            readers = {tree: stack.enter_context(tree.head_reader()) for tree in self._trees}

            directory, read = "", None

            def read_first(path: str, most: int) -> bytes:
                nonlocal directory, read
                end = path.rfind("/")
                if read is None or path[:end] != directory:
                    directory = path[:end]
                    trees = self._find_trees(self._relative_path(directory))
                    read = readers[self._trees[trees[0]]] if len(trees) == 1 else None
                if read is not None:
                    return read(path[cut:], most)
                tree, below = self._locate(path)
                return readers[tree](below, most)

            yield read_first

    def _relative_path(self, path: str) -> str:
        """A path relative to `target`, "" for `target` itself. Raises TreeError for a path elsewhere."""
        if path != self._target and not path.startswith(f"{self._target}/"):
            raise TreeError(f"{path} is not below {self._target}")
        return path[len(self._target) + 1 :]

    def _locate(self, path: str) -> tuple[RootedTree, str]:
        """The tree that has an entry, and the path in that tree."""
        below = self._relative_path(path)
        above, _, name = below.rpartition("/")
        trees = self._find_trees(above)
        if len(trees) > 1:
            found = self._merge_entries(above).get(name)
            if found is None:
                raise TreeError(f"{path} does not exist")
            return self._trees[found[0]], f"/{below}"
        return self._trees[trees[0]], f"/{below}"

    def _find_trees(self, below: str) -> Sequence[int]:
        """The numbers of the trees whose directories are merged at `below`, topmost first."""
        known = self._merged.get(below)
        if known is None:
            above, _, name = below.rpartition("/")
            known = self._merged[below] = self._descend(self._find_trees(above), below, name)
        return known

    def _descend(self, trees: Sequence[int], below: str, name: str) -> Sequence[int]:
        if len(trees) == 1:
            return trees  # that tree itself refuses to list what is no directory
        found: tuple[int, ...] = ()
        for number in trees:
            tree = self._marked[number]
            node = tree.stat(f"/{below}")
            if node is None:
                continue
            if node.kind is not NodeKind.DIRECTORY:
                break
            found += (number,)
            if tree.attribute(f"/{below}", overlay.OPAQUE) == b"y":
                break
        if not found:
            raise TreeError(f"{name} is not a directory")
        return found

    def _merge_entries(self, below: str) -> dict[str, tuple[int, Node]]:
        """The entries of a directory: for each name the topmost one, and the number of its tree."""
        known = self._entries.get(below)
        if known is not None:
            return known
        trees = self._find_trees(below)
        found: dict[str, tuple[int, Node]] = {}
        for number in trees:
            for node in self._marked[number].list(f"/{below}"):
                found.setdefault(node.name, (number, node))
        visible = {name: one for name, one in found.items() if not self._is_removed(f"/{below}/{name}", *one)}
        if len(trees) > 1:
            self._entries[below] = visible
        return visible

    def _is_removed(self, path: str, tree: int, node: Node) -> bool:
        return node.kind is NodeKind.OTHER and self._trees[tree].stat(path) is None
