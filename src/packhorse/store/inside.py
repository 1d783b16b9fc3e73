"""④→ root, the part that runs as root of a sandbox's user namespace, in a child that `errand` starts.

    unpack PARENT NAME OWNERS     the tar on stdin, into the new directory NAME
    merge LAYERS PARENT NAME      layers of the directory LAYERS, listed on stdin, into the new directory NAME
    remove PARENT NAME            whatever NAME is

LAYERS and PARENT are descriptors: paths above the store may be closed to these ids. OWNERS is `yes` where the
namespace has more than one id. Answers one JSON object on stdout; a failure ends with status 1 and is told
there too. Which trees are made when is `trees`'s.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, BinaryIO

from packhorse.base import syscalls
from packhorse.errors import PackhorseError
from packhorse.layers.unpack import unpack
from packhorse.store import merge

_CHUNK = 1 << 20


def main(words: list[str]) -> int:
    """Does what the command line says, and prints the answer; returns the exit status."""
    verb, *arguments = words
    syscalls.die_with_parent()
    try:
        match verb:
            case "unpack":
                parent, name, owners = arguments
                answer = _unpack(int(parent), name, owner=owners == "yes", stream=sys.stdin.buffer)
            case "merge":
                layers, parent, name = arguments
                answer = _merge(int(layers), json.load(sys.stdin), int(parent), name)
            case _:
                parent, name = arguments
                answer = {"freed": merge.remove(int(parent), name)}
    except PackhorseError as error:
        print(
            json.dumps({"kind": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix})
        )
        return 1
    except OSError as error:
        print(json.dumps({"kind": "OSError", "errno": error.errno}))
        return 1
    print(json.dumps(answer))
    return 0


def _unpack(parent: int, name: str, *, owner: bool, stream: BinaryIO) -> dict[str, Any]:
    with _new(parent, name) as target:
        return asdict(unpack(iter(lambda: stream.read(_CHUNK), b""), target, owner=owner))


def _merge(layers: int, order: list[dict[str, Any]], parent: int, name: str) -> dict[str, Any]:
    """Merges layers, lowest first. Each hides what it says it hides before it is laid over those below."""
    count = 0
    with _new(parent, name) as target:
        for layer in order:
            before = {path: status for path in layer["implied"] if (status := _directory(target, path))}
            for path in layer["whiteouts"]:
                _hide(target, path)
            for path in layer["opaque"]:
                _empty(target, path)
            passed = [path for path in before if _directory(target, path)]
            with merge.opened(layers, layer["name"]) as source:
                count += merge.lay(source, target)
            for path in passed:
                _restore(target, path, before[path])
    return {"entries": count}


@contextmanager
def _new(parent: int, name: str) -> Iterator[int]:
    """A new directory, as the root of a file system has to be."""
    os.mkdir(name, 0o755, dir_fd=parent)
    with merge.opened(parent, name) as directory:
        os.fchmod(directory, 0o755)
        yield directory


def _hide(tree: int, path: str) -> None:
    with _parent(tree, path) as parent:
        if parent is not None:
            merge.remove(parent, path.rpartition("/")[2])


def _empty(tree: int, path: str) -> None:
    """Empties a directory; "" is the tree itself."""
    with _parent(tree, f"{path}/." if path else ".") as directory:
        if directory is not None:
            for name in merge.names(directory):
                merge.remove(directory, name)


def _directory(tree: int, path: str) -> os.stat_result | None:
    """What a directory of the tree is like; None when there is none."""
    with _parent(tree, f"{path}/.") as directory:
        return None if directory is None else os.fstat(directory)


def _restore(tree: int, path: str, status: os.stat_result) -> None:
    """Gives a directory back what it was like before a layer that only passed through it."""
    with _parent(tree, f"{path}/.") as directory:
        if directory is not None:
            merge.adorn(directory, status)


@contextmanager
def _parent(tree: int, path: str) -> Iterator[int | None]:
    """The directory that the last element of `path` is in, by real directories only; else None."""
    descriptor = os.dup(tree)
    try:
        for name in path.split("/")[:-1]:
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError:
                status = None
            if status is None or not stat.S_ISDIR(status.st_mode):
                yield None
                return
            with merge.opened(descriptor, name) as below:
                os.dup2(below, descriptor, inheritable=False)
        yield descriptor
    finally:
        os.close(descriptor)
