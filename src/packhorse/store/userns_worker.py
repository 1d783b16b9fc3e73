"""Unpacks, merges and removes trees as root of a sandbox's user namespace. `userns_jobs` starts this child.

    unpack PARENT NAME OWNERS     unpacks the tar on stdin into the new directory NAME
    unpack-all PARENT OWNERS      unpacks one layer after another, as `userns_jobs.Unpacker` writes them
    merge LAYERS PARENT NAME      merges layers of the directory LAYERS, listed on stdin, into the new NAME
    remove PARENT NAME            removes the file or tree NAME

LAYERS and PARENT are descriptors, because these ids may not be allowed to search the directories above the
store. OWNERS is `yes` if the namespace has more than one id. The child prints one JSON object on stdout, or
one a line for `unpack-all`. If it fails, the object says why, and the exit status is 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, BinaryIO

from packhorse.errors import PackhorseError, TreeError
from packhorse.fs import overlay, walk
from packhorse.fs.apply import Changeset
from packhorse.linux import syscalls
from packhorse.tar.unpack import unpack

_CHUNK = 1 << 20


def main(words: list[str]) -> int:
    """Runs the command line `words`, and prints the answer; returns the exit status."""
    verb, *arguments = words
    syscalls.die_with_parent()
    try:
        match verb:
            case "unpack":
                parent, name, owners = arguments
                answer = _unpack(int(parent), name, owner=owners == "yes", stream=sys.stdin.buffer)
            case "unpack-all":
                parent, owners = arguments
                return _unpack_all(int(parent), owner=owners == "yes", stream=sys.stdin.buffer)
            case "merge":
                layers, parent, name = arguments
                answer = _merge(int(layers), json.load(sys.stdin), int(parent), name)
            case _:
                parent, name = arguments
                answer = {"freed": walk.remove(int(parent), name)}
    except PackhorseError as error:
        parts = {"what": error.what, "why": error.why, "fix": error.fix, "check": error.check}
        print(json.dumps({"kind": type(error).__name__, **parts}))
        return 1
    except OSError as error:
        print(json.dumps({"kind": "OSError", "errno": error.errno}))
        return 1
    print(json.dumps(answer))
    return 0


def _unpack(parent: int, name: str, *, owner: bool, stream: BinaryIO) -> dict[str, Any]:
    with _new_directory(parent, name) as target:
        return asdict(unpack(iter(lambda: stream.read(_CHUNK), b""), target, owner=owner))


def _unpack_all(parent: int, *, owner: bool, stream: BinaryIO) -> int:
    """Unpacks the layers of a stream, and prints a line for each. Raises the first error."""
    while name := stream.readline():
        frames = _read_frames(stream)
        with _new_directory(parent, name.decode().rstrip("\n")) as target:
            answer = asdict(unpack(frames, target, owner=owner))
        for _ in frames:
            pass  # skip to the end of this layer, where the next one begins
        print(json.dumps(answer), flush=True)
    return 0


def _read_frames(stream: BinaryIO) -> Iterator[bytes]:
    """The chunks of one layer. Each has its length before it; the length 0 ends the layer."""
    while length := int.from_bytes(stream.read(4), "little"):
        yield stream.read(length)


def _merge(layers: int, order: list[dict[str, Any]], parent: int, name: str) -> dict[str, Any]:
    """Applies layers, lowest first, to a new tree."""
    count = 0
    with _new_directory(parent, name) as target:
        for layer in order:
            changes = Changeset(layer["whiteouts"], layer["opaque"], frozenset(layer["implied"]))
            with overlay.open_subdirectory(layers, layer["name"]) as source:
                try:
                    count += changes.apply(source, target)
                except TreeError as error:
                    raise TreeError(
                        f"the layer {layer['name'][:12]} cannot be applied", why=str(error)
                    ) from error
    return {"entries": count}


@contextmanager
def _new_directory(parent: int, name: str) -> Iterator[int]:
    """Makes a directory with mode 0755, and opens it."""
    os.mkdir(name, 0o755, dir_fd=parent)
    with overlay.open_subdirectory(parent, name) as directory:
        os.fchmod(directory, 0o755)
        yield directory
