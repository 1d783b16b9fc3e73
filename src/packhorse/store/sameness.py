"""③ Whether what a buildpack wrote over a layer is what the layer had: touched, and the same.

Programs open for writing, change modes to what they were, and write files anew that do not differ; an overlay
copies them up all the same. Compared is what a layer's tar has: names, kinds, modes, links and bytes. Called
by overlay and copies before a layer counts as changed; what the marks of an overlay are is `merge`'s.

Both trees may be hostile: no link is followed.
"""

from __future__ import annotations

import os
import stat

from packhorse.base import shut
from packhorse.store import merge

_CHUNK = 1 << 20
_DEPTH = 200


def same(upper: int, lower: int, name: str, *, whole: bool = False) -> bool:
    """Whether the layer `name` of the directory `upper`, seen over that of `lower`, is the latter.

    With `whole` there is nothing below: the upper one is all there is. All that differs in other than bytes
    is found before any are read.
    """
    try:
        return all(_same(upper, lower, name, whole=whole, read=read, depth=0) for read in (False, True))
    except OSError:
        return False  # cannot be read, or goes on being written: it is looked at as a changed one


def _same(upper: int, lower: int, name: str, *, whole: bool, read: bool, depth: int) -> bool:
    above = shut.status(upper, name)
    try:
        below = shut.status(lower, name)
    except FileNotFoundError:
        return merge.is_whiteout(above) and not whole
    if above.st_mode != below.st_mode:
        return False
    if stat.S_ISDIR(above.st_mode):
        return depth < _DEPTH and _same_directory(upper, lower, name, whole=whole, read=read, depth=depth)
    if stat.S_ISREG(above.st_mode):
        return above.st_size == below.st_size and (not read or _same_bytes(upper, lower, name))
    if stat.S_ISLNK(above.st_mode):
        return shut.read_link(upper, name) == shut.read_link(lower, name)
    return stat.S_ISFIFO(above.st_mode)


def _same_directory(upper: int, lower: int, name: str, *, whole: bool, read: bool, depth: int) -> bool:
    hides = whole or merge.is_opaque(upper, name)
    with merge.opened(upper, name) as above, merge.opened(lower, name) as below:
        names = merge.names(above)
        if hides and not set(names).issuperset(merge.names(below)):
            return False
        return all(_same(above, below, each, whole=hides, read=read, depth=depth + 1) for each in names)


def _same_bytes(upper: int, lower: int, name: str) -> bool:
    flags = os.O_RDONLY | os.O_NONBLOCK
    above = shut.open_entry(upper, name, flags)
    try:
        below = shut.open_entry(lower, name, flags)
        try:
            while chunk := os.read(above, _CHUNK):
                if chunk != _exactly(below, len(chunk)):
                    return False
            return not os.read(below, 1)
        finally:
            os.close(below)
    finally:
        os.close(above)


def _exactly(descriptor: int, count: int) -> bytes:
    """The next `count` bytes of a file, fewer at its end."""
    chunk = os.read(descriptor, count)
    while len(chunk) < count and (more := os.read(descriptor, count - len(chunk))):
        chunk += more
    return chunk
