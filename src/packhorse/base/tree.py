"""The two ports through which a phase touches files that a buildpack could have written.

Between ② and ④ everything on disk is hostile: a link planted in a layer would be followed outside the
sandbox. So no phase opens such a path by name; it is handed a `TreeView` or a `TreeEdit`. The one adapter is
`fs.rooted`. Paths are absolute inside the tree (`/layers/a_b/c.toml`), `/`-separated text decoded with
surrogateescape; links are resolved inside the tree and never lead out of it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import BinaryIO, NamedTuple, Protocol

from packhorse.errors import TreeError


class NodeKind(Enum):
    """What an entry is. A FIFO and `OTHER`, a socket or device, are listed and never opened."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    FIFO = "fifo"
    OTHER = "other"


FORMATS = {
    NodeKind.FILE: stat.S_IFREG,
    NodeKind.DIRECTORY: stat.S_IFDIR,
    NodeKind.LINK: stat.S_IFLNK,
    NodeKind.FIFO: stat.S_IFIFO,
}
"""What the mode of lstat(2) has for each kind but `OTHER`, beside the permission bits."""


class Node(NamedTuple):
    """One entry of a tree, as lstat(2) has it, with ids as they are inside the sandbox.

    There are as many as an application has files, hence a tuple, which is made in a fraction of the time.
    `name` is the last path element; `mode` has the twelve permission bits; `size` is in bytes (0 unless a
    file); times are nanoseconds since the epoch; `rdev` is (major, minor) of a device, (0, 0) otherwise.
    """

    name: str
    kind: NodeKind
    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    inode: int = 0
    rdev: tuple[int, int] = (0, 0)


ReadHead = Callable[[str, int], bytes]
"""Answers so many bytes of the beginning of the regular file at a path, fewer if it has no more."""


class TreeView(Protocol):
    """Reads a tree without leaving it. Every method raises TreeError where it cannot do what it says."""

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        """The entry at `path`, or None when there is none; `follow` resolves a link at its end."""
        ...

    def list(self, path: str) -> Sequence[Node]:
        """The entries of the directory at `path` (links in `path` resolved inside), in byte order of their
        names.
        """
        ...

    def open(self, path: str) -> BinaryIO:
        """The regular file at `path`, links resolved inside the tree; anything else raises TreeError."""
        ...

    def head_reader(self) -> AbstractContextManager[ReadHead]:
        """For many files that `list` has just shown: reads as `open` does, in less time where those of a
        directory follow each other. Directories must stay where they are meanwhile.
        """
        ...

    def readlink(self, path: str) -> str:
        """The target text of the link at `path`, as it is."""
        ...


class TreeEdit(TreeView, Protocol):
    """A tree that can be written. New entries belong to the tree's own user (the CNB user)."""

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Puts a regular file at `path`, replacing a file or link there (never following it); parents are
        made.
        """
        ...

    def copy(self, source: str, destination: str, *, limit: int) -> None:
        """As `write` of what `read` gives of `source`, which must exist. It may be the same file by another
        name afterwards: this is for what is not written to again.
        """
        ...

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Makes the directory `path` and its missing parents; an existing directory is left as it is."""
        ...

    def rename(self, source: str, destination: str) -> None:
        """Moves `source` to `destination`, which must not exist."""
        ...

    def remove(self, path: str) -> None:
        """Removes `path` and everything below it, following nothing; a missing path is no error."""
        ...


def read_head(view: TreeView, path: str, limit: int) -> bytes:
    """The beginning of the regular file at `path`, up to `limit` bytes; a `ReadHead` for any view."""
    with view.open(path) as file:
        return file.read(limit)


def read(view: TreeView, path: str, *, limit: int = 1 << 20) -> bytes | None:
    """The content of the regular file at `path`, or None when nothing is there.

    Raises TreeError when it is no regular file or has more than `limit` bytes.
    """
    if view.stat(path, follow=True) is None:
        return None
    with view.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TreeError(f"{path} is too large", why=f"at most {limit} bytes are read of such a file")
    return data


def is_directory(view: TreeView, path: str) -> bool:
    """Whether a directory, or a link that leads to one, is at `path`."""
    node = view.stat(path, follow=True)
    return node is not None and node.kind is NodeKind.DIRECTORY
