"""Shows several file trees as one `TreeView`, as mounts would, but without any mount.

One view shows trees at paths inside another tree, as bind mounts do. It serves commands that only read a
builder's files; the mounts would take as long as a small buildpack.

The other view shows directories over each other, as an overlay does. An overlay mount doubles the time to
read every file, and takes as long again to unmount. So packhorse packs an application from the source and
from the files written over it, once nothing writes there any more. `fs.overlay` knows the marks of an
overlay.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.base.sandbox import Bind
from packhorse.base.tree import Node, NodeKind, ReadHead, TreeView, read_head
from packhorse.errors import TreeError
from packhorse.fs import overlay
from packhorse.fs.rooted import RootedTree
from packhorse.linux.userns import IdMap


class BindView:
    """The tree `root`, with what `binds` show at their targets (a `TreeView`). A context, which closes them.

    The last of those with the same target counts, and the deepest of those around a path. What leads from one
    tree into another is the text of a path alone: links stay in the tree that they are in.
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
        """What reads the beginnings of files, each on its own."""
        yield partial(read_head, self)

    def readlink(self, path: str) -> str:
        """The target text of the link at `path`."""
        tree, there = self._find(path)
        return tree.readlink(there)

    def _open(self, directory: Path) -> RootedTree:
        return self._own.enter_context(RootedTree.open_local(directory, idmap=self._idmap, whiteouts=False))

    def _find(self, path: str) -> tuple[TreeView, str]:
        """The tree in which a path is, and where there."""
        plain = _normalise(path)
        for target in self._targets:
            if f"{plain}/".startswith(f"{target}/"):
                tree, start = self._seen[target]
                return tree, f"{start}{plain[len(target) :]}" or "/"
        return self._root, path

    def _target_names(self, path: str) -> set[str]:
        """The names directly below `path` that lead to a target."""
        start = f"{_normalise(path).rstrip('/')}/"
        return {target[len(start) :].split("/")[0] for target in self._targets if target.startswith(start)}


def _normalise(path: str) -> str:
    """A path without what does not change it."""
    return "/" + "/".join(name for name in path.split("/") if name not in ("", "."))


class OverlayView:
    """What `layers`, bottom first, show at `target`. A context, which closes them.

    No link is followed, but for `open` and `head_reader`, within one layer. Owners are those of this machine.
    """

    def __init__(self, layers: Sequence[Path], target: str) -> None:
        self._target = target
        self._trees: list[RootedTree] = []
        self._marked: list[RootedTree] = []  # the same, with what stands for removed entries
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
        """The entry at `path`, or None when there is none; TreeError for a link that is to be followed."""
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
        """Whether a directory ("" for the top), with all below it, is the lowest layer's alone."""
        trees = self._find_trees(below)
        return len(trees) == 1 and trees[0] == len(self._trees) - 1

    def open(self, path: str) -> BinaryIO:
        """The regular file at `path`."""
        tree, below = self._locate(path)
        return tree.open(below)

    def readlink(self, path: str) -> str:
        """The target text of the link at `path`, as it is."""
        tree, below = self._locate(path)
        return tree.readlink(below)

    @contextmanager
    def head_reader(self) -> Iterator[ReadHead]:
        """What reads the beginnings of files, of each layer those of a directory after each other."""
        with ExitStack() as stack:
            cut = len(self._target)
            readers = {tree: stack.enter_context(tree.head_reader()) for tree in self._trees}

            start, read = "", None

            def first(path: str, most: int) -> bytes:
                nonlocal start, read
                end = path.rfind("/")
                if read is None or path[:end] != start:
                    start = path[:end]
                    trees = self._find_trees(self._relative_path(start))
                    read = readers[self._trees[trees[0]]] if len(trees) == 1 else None
                if read is not None:
                    return read(path[cut:], most)
                tree, below = self._locate(path)
                return readers[tree](below, most)

            yield first

    def _relative_path(self, path: str) -> str:
        """A path without `target`, "" for that itself."""
        if path != self._target and not path.startswith(f"{self._target}/"):
            raise TreeError(f"{path} is not below {self._target}")
        return path[len(self._target) + 1 :]

    def _locate(self, path: str) -> tuple[RootedTree, str]:
        """The tree in which an entry is, and where there."""
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
        """In which trees, top first, a directory is; more than one are merged."""
        known = self._merged.get(below)
        if known is None:
            above, _, name = below.rpartition("/")
            known = self._merged[below] = self._descend(self._find_trees(above), below, name)
        return known

    def _descend(self, trees: Sequence[int], below: str, name: str) -> Sequence[int]:
        if len(trees) == 1:
            return trees  # who lists it is told if it is none
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
        """What a directory shows: of each name the topmost entry, and in which tree it is."""
        known = self._entries.get(below)
        if known is not None:
            return known
        trees = self._find_trees(below)
        found: dict[str, tuple[int, Node]] = {}
        for number in trees:
            for node in self._marked[number].list(f"/{below}"):
                found.setdefault(node.name, (number, node))
        shown = {name: one for name, one in found.items() if not self._is_removed(f"/{below}/{name}", *one)}
        if len(trees) > 1:
            self._entries[below] = shown
        return shown

    def _is_removed(self, path: str, tree: int, node: Node) -> bool:
        return node.kind is NodeKind.OTHER and self._trees[tree].stat(path) is None
