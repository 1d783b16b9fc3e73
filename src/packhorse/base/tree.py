"""The two ports through which a phase reads and writes files that a buildpack could have written.

Such files are hostile: a link that a buildpack planted in a layer would lead out of the sandbox. So no phase
opens them by name; it gets a `TreeView` or a `TreeEdit`. The one adapter is `fs.rooted`. Paths are absolute
inside the tree (`/layers/a_b/c.toml`), decoded with surrogateescape. Links resolve inside the tree and never
lead out of it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import BinaryIO, NamedTuple, Protocol

from packhorse.errors import TreeError


class NodeKind(Enum):
    """The kind of an entry. A FIFO and `OTHER` (a socket or device) are listed but never opened."""

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
"""The file type bits of lstat(2)'s mode for each kind except `OTHER`."""


class Node(NamedTuple):
    """One entry of a tree as lstat(2) describes it, with ids as they are inside the sandbox.

    It is a tuple because a tuple is made in a fraction of the time, and an application has many files. `name`
    is the last path element. `mode` has the twelve permission bits. `size` is in bytes (0 unless it is a
    file). Times are nanoseconds since the epoch. `rdev` is (major, minor) of a device, else (0, 0).
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
"""Returns the first bytes of the regular file at a path, at most the given number."""


class TreeView(Protocol):
    """Reads a tree without leaving it. Every method raises TreeError if it fails."""

    def stat(self, path: str, *, follow: bool = False) -> Node | None:
        """Returns the entry at `path`, or None if there is none. `follow` resolves a link at its end."""
        ...

    def list(self, path: str) -> Sequence[Node]:
        """Returns the entries of the directory at `path`, in byte order of their names."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Opens the regular file at `path`; anything else raises TreeError."""
        ...

    def head_reader(self) -> AbstractContextManager[ReadHead]:
        """Returns a faster way to read the beginnings of many files, one directory after the other.

        Directories must not be moved meanwhile.
        """
        ...

    def readlink(self, path: str) -> str:
        """Returns the target of the link at `path`, unchanged."""
        ...


class TreeEdit(TreeView, Protocol):
    """A tree that can be written. New entries belong to the tree's own user (the CNB user)."""

    def write(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Writes a regular file and its missing parents. It never follows a link at `path`."""
        ...

    def copy(self, source: str, destination: str, *, limit: int) -> None:
        """Copies `source`, which must exist and have at most `limit` bytes, to `destination`.

        The copy may be a hard link, so nothing may write to either file afterwards.
        """
        ...

    def mkdir(self, path: str, *, mode: int = 0o755) -> None:
        """Makes the directory `path` and its missing parents. It does not change an existing directory."""
        ...

    def rename(self, source: str, destination: str) -> None:
        """Moves `source` to `destination`, which must not exist."""
        ...

    def remove(self, path: str) -> None:
        """Removes `path` and everything below it, without following links. A missing path is no error."""
        ...


def read_head(view: TreeView, path: str, limit: int) -> bytes:
    """Returns the first `limit` bytes of the regular file at `path`; a `ReadHead` for any view."""
    with view.open(path) as file:
        return file.read(limit)


def read(view: TreeView, path: str, *, limit: int = 1 << 20) -> bytes | None:
    """Returns the content of the regular file at `path`, or None if nothing is there.

    Raises TreeError if it is not a regular file or has more than `limit` bytes.
    """
    if view.stat(path, follow=True) is None:
        return None
    with view.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TreeError(f"{path} is too large", why=f"at most {limit} bytes are read of such a file")
    return data


def is_directory(view: TreeView, path: str) -> bool:
    """Whether `path` is a directory or a link to one."""
    node = view.stat(path, follow=True)
    return node is not None and node.kind is NodeKind.DIRECTORY
