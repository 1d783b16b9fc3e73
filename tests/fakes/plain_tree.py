"""A TreeView over a directory of this machine, for trees that the test made: it follows links anywhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from packhorse.base.tree import Node, NodeKind, ReadHead, read_head
from packhorse.errors import TreeError

_KINDS = {
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFLNK: NodeKind.LINK,
    stat.S_IFIFO: NodeKind.FIFO,
}


class PlainTree:
    """Shows what is below `root` under absolute paths: `/a` is `root/a`."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        try:
            return _node(os.path.basename(path), os.stat(self._root + path, follow_symlinks=follow))
        except FileNotFoundError:
            return None

    def list(self, path: str) -> Sequence[Node]:
        with os.scandir(self._root + path) as entries:
            nodes = [_node(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        return sorted(nodes, key=lambda node: os.fsencode(node.name))

    def open(self, path: str) -> BinaryIO:
        try:
            return open(self._root + path, "rb")
        except OSError as error:
            raise TreeError(f"{path} cannot be read", why=str(error)) from error

    @contextmanager
    def head_reader(self) -> Iterator[ReadHead]:
        yield partial(read_head, self)

    def readlink(self, path: str) -> str:
        return os.readlink(self._root + path)


def _node(name: str, found: os.stat_result) -> Node:
    return Node(
        name,
        _KINDS.get(stat.S_IFMT(found.st_mode), NodeKind.OTHER),
        stat.S_IMODE(found.st_mode),
        found.st_size if stat.S_ISREG(found.st_mode) else 0,
        found.st_uid,
        found.st_gid,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        (os.major(found.st_rdev), os.minor(found.st_rdev)),
    )
