"""Makes a real directory tree from a list of items, as golden figures describe theirs.

An item is `[kind, path, mode, content]`, with paths relative to the root and `mode` as octal text. The kinds
and their content: "file" (its text), "filler" (a file: how many bytes), "directory" (""), "link" (its
target), "hard" (the path linked to), "fifo" and "socket" (""). Parents come first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path


def make(root: Path, items: Iterable[Sequence[str]]) -> None:
    """Makes all `items` below `root`, then gives directories their modes, deepest first."""
    directories = []
    for kind, path, mode, content in items:
        where = root / path
        match kind:
            case "file":
                where.write_bytes(content.encode("utf-8", "surrogateescape"))
                where.chmod(int(mode, 8))
            case "filler":
                where.write_bytes((b"0123456789abcdef" * (int(content) // 16 + 1))[: int(content)])
                where.chmod(int(mode, 8))
            case "directory":
                where.mkdir()
                directories.append((where, int(mode, 8)))
            case "link":
                where.symlink_to(content)
            case "hard":
                where.hardlink_to(root / content)
            case "fifo":
                os.mkfifo(where)
                where.chmod(int(mode, 8))
            case "socket":
                _make_socket(where)
    for where, bits in reversed(directories):
        where.chmod(bits)


def _make_socket(where: Path) -> None:
    # The address of a socket has at most 107 bytes, so it is bound by a path relative to an open directory.
    parent = os.open(where.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{parent}/{where.name}")
    finally:
        os.close(parent)


def nest(top: Path, levels: int) -> None:
    """Makes directories in directories, more than a path has room for."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
