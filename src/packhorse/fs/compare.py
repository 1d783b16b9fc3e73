"""Compares file trees: by lstat(2) stamps, entry by entry, or by the digest of an overlay's upper directory.

An equal stamp of a directory means that nothing directly in it has changed. `source` stamps a whole tree
before a build uses it; `tar` stamps the directories that it packs.

Programs open files for writing, restore modes, or rewrite files with equal content; the overlay copies such
files up. So a layer is unchanged if its upper tree equals its lower one, and two builds of the same source
have the same application if their upper trees are equal. `fs.overlay` knows the marks of an overlay.

Buildpacks write these trees, so this code follows no link.
"""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path

from packhorse.errors import TreeError
from packhorse.fs import overlay, shut
from packhorse.fs.walk import Chain, Walk, closing

Entry = tuple[str, int, int, int, int, int]
"""Name, mode with the file type, size (0 unless a file), modification and change time in ns, and inode.

The last four are 0 for a directory: its entries have a stamp of their own.
"""

_WORD = (1 << 64) - 1
_DIGITS = 32
"""Hexadecimal digits of a stamp, of SHA-256's 64. Only the owner of a tree could look for a collision."""


def stamp(entries: list[Entry]) -> str:
    """A digest of `entries`, which it sorts in place."""
    entries.sort()
    numbers = array("Q")
    for _, mode, size, modified, changed, inode in entries:
        numbers.extend((mode, size, modified & _WORD, changed & _WORD, inode))  # before 1970 or after 2262
    total = hashlib.sha256("\0".join([entry[0] for entry in entries]).encode("utf-8", "surrogateescape"))
    total.update(numbers.tobytes())
    return total.hexdigest()[:_DIGITS]


_CHUNK = 1 << 20
_MOST = 64 << 20
"""The most bytes of an upper directory that are digested; export would read more of them a second time."""


class _TooMuch(Exception):
    """The tree has more than _MOST bytes, or a file of another size than lstat(2) said."""


def trees_equal(upper: int, lower: int, name: str, *, whole: bool = False) -> bool:
    """Whether the layer `name` of the directory `lower` stays equal with the tree of `upper` mounted over it.

    `upper` and `lower` are descriptors. It compares what a layer's tar has: names, kinds, modes, link targets
    and bytes. With `whole`, `upper` hides all of `lower`. It reads file contents only if everything else is
    equal. False also if a tree cannot be read, or is written to meanwhile.
    """
    try:
        return all(_trees_equal(upper, lower, name, whole=whole, read=read) for read in (False, True))
    except (OSError, TreeError):
        return False


def _trees_equal(upper: int, lower: int, name: str, *, whole: bool, read: bool) -> bool:
    hides = [whole]  # for each open directory, whether it hides everything of the lower one
    counts = [0]  # for each open directory, how many entries are in both
    with Walk(upper, [name]) as walk, Chain(lower) as below:
        for directory, child, status, is_done in walk:
            if is_done:
                count = counts.pop()
                if hides.pop() and count != len(os.listdir(below.here)):  # noqa: PTH208 -- a descriptor
                    return False  # it hides an entry of the lower one
                below.leave()
                continue
            try:
                other = shut.lstat(below.here, child)
            except FileNotFoundError:
                if overlay.is_whiteout(status) and not hides[-1]:
                    continue
                return False
            if not _entries_equal(directory, status, below.here, other, child, read=read):
                return False
            counts[-1] += 1
            if stat.S_ISDIR(status.st_mode):
                hides.append(hides[-1] or overlay.is_opaque(directory, child))
                counts.append(0)
                below.enter(child)
    return True


def _entries_equal(
    upper: int, above: os.stat_result, lower: int, below: os.stat_result, name: str, *, read: bool
) -> bool:
    if above.st_mode != below.st_mode:
        return False
    if stat.S_ISREG(above.st_mode):
        return above.st_size == below.st_size and (not read or _bytes_equal(upper, lower, name))
    if stat.S_ISLNK(above.st_mode):
        return shut.read_link(upper, name) == shut.read_link(lower, name)
    return stat.S_ISDIR(above.st_mode) or stat.S_ISFIFO(above.st_mode)


def _bytes_equal(upper: int, lower: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NONBLOCK
    with (
        closing(shut.open_entry(upper, name, flags)) as above,
        closing(shut.open_entry(lower, name, flags)) as below,
    ):
        while chunk := os.read(above, _CHUNK):
            if chunk != _read_exactly(below, len(chunk)):
                return False
        return not os.read(below, 1)


def _read_exactly(descriptor: int, count: int) -> bytes:
    """Reads the next `count` bytes of a file, or fewer at its end."""
    chunk = os.read(descriptor, count)
    while len(chunk) < count and (more := os.read(descriptor, count - len(chunk))):
        chunk += more
    return chunk


def upperdir_digest(upper: Path) -> str:
    """A digest of the names, kinds, modes, link targets, bytes and overlay marks in the directory `upper`.

    It does not cover the mode of `upper` itself. Empty if the tree cannot be read, or has more than 64 MiB.
    """
    digest = hashlib.sha256()
    left = _MOST
    try:
        with overlay.open_directory(upper) as top:
            for part in _describe_tree(top):
                left -= len(part)
                if left < 0:
                    return ""
                digest.update(part)
    except (OSError, TreeError, _TooMuch):
        return ""
    return digest.hexdigest()


def _describe_tree(top: int) -> Iterator[bytes]:
    """Describes everything in a directory: a line for each entry, and after a file's line its bytes."""
    with Walk(top) as walk:
        for directory, name, status, is_done in walk:
            if is_done:
                yield b"\n"
                continue
            words: list[object] = [name, oct(status.st_mode)]
            if stat.S_ISREG(status.st_mode):
                words.append(status.st_size)
            elif stat.S_ISLNK(status.st_mode):
                words.append(shut.read_link(directory, name))
            elif stat.S_ISDIR(status.st_mode):
                words.append(overlay.is_opaque(directory, name))
            elif overlay.is_whiteout(status):
                words.append("gone")
            yield repr(words).encode("utf-8", "surrogateescape") + b"\n"
            if stat.S_ISREG(status.st_mode):
                yield from _read_bytes(directory, name, status.st_size)


def _read_bytes(directory: int, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a file; raises _TooMuch if there are not exactly `size` of them."""
    if size > _MOST:
        raise _TooMuch
    with closing(shut.open_entry(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as descriptor:
        while chunk := os.read(descriptor, _CHUNK):
            size -= len(chunk)
            yield chunk
        if size:
            raise _TooMuch  # a program writes to the file at this moment
