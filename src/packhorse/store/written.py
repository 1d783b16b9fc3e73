"""② What was written over a tree, as one digest: the whole upper directory of an overlay.

Two builds over the same source that leave the same upper show the same application. Called by platform. What
is in an upper was written by buildpacks: no link in it is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from packhorse.base import shut
from packhorse.store import merge

_CHUNK = 1 << 20
_DEPTH = 200
_MOST = 64 << 20
"""Bytes above which nobody wants to know: they are read once more when the application is exported."""


class _TooMuch(Exception):
    """There is more in it than is worth reading twice."""


def digest(upper: Path) -> str:
    """Of names, kinds, modes, links, bytes and marks; empty where it cannot be told, or is too much to read.

    The mode of the directory `upper` itself is not in it.
    """
    taken = hashlib.sha256()
    left = _MOST
    try:
        with merge.directory(upper) as top:
            for part in _directory(top, depth=0):
                left -= len(part)
                if left < 0:
                    return ""
                taken.update(part)
    except (OSError, _TooMuch):
        return ""
    return taken.hexdigest()


def _directory(directory: int, *, depth: int) -> Iterator[bytes]:
    """Everything in a directory: a line for each entry, behind that of a file its bytes."""
    if depth > _DEPTH:
        raise _TooMuch
    for name in merge.names(directory):
        status = shut.status(directory, name)
        words: list[object] = [name, oct(status.st_mode)]
        if stat.S_ISREG(status.st_mode):
            words.append(status.st_size)
        elif stat.S_ISLNK(status.st_mode):
            words.append(shut.read_link(directory, name))
        elif stat.S_ISDIR(status.st_mode):
            words.append(merge.is_opaque(directory, name))
        elif merge.is_whiteout(status):
            words.append("gone")
        yield repr(words).encode("utf-8", "surrogateescape") + b"\n"
        if stat.S_ISREG(status.st_mode):
            yield from _file(directory, name, status.st_size)
        elif stat.S_ISDIR(status.st_mode):
            with merge.opened(directory, name) as below:
                yield from _directory(below, depth=depth + 1)
            yield b"\n"


def _file(directory: int, name: str, size: int) -> Iterator[bytes]:
    """The bytes of a file, as many as it has said it has."""
    if size > _MOST:
        raise _TooMuch
    descriptor = shut.open_entry(directory, name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while chunk := os.read(descriptor, _CHUNK):
            size -= len(chunk)
            yield chunk
        if size:
            raise _TooMuch  # it is written to at this moment
    finally:
        os.close(descriptor)
