"""A file tree with others seen in it, as mounts would show them, without any mount; between all arrows.

For who only looks at what a builder has: to make the mounts takes as long as a small buildpack. Made by
`platform.runner`; the trees themselves are `rooted`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.base.rooted import RootedTree
from packhorse.base.step import Bind
from packhorse.base.tree import Node, NodeKind, ReadHead, TreeView, read_head
from packhorse.base.userns import IdMap


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
