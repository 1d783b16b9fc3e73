"""What a step's first process (`launcher/init`) is told and tells; called by `container` and `monitor`."""

from __future__ import annotations

import os
import struct
from typing import TypedDict


class Order(TypedDict):
    """The command of a step. `uids` and `gids` are maps for a user namespace of its own, or both empty.

    `arguments` begin with argv[0]; `files` is the soft limit of open files.
    """

    uids: str
    gids: str
    directory: str
    executable: str
    arguments: list[str]
    environment: dict[str, str]
    files: int


def encode(order: Order, program: bytes) -> bytes:
    """The order in bytes; the command runs under the system call filter `program`."""
    strings = [order["uids"], order["gids"], order["directory"], order["executable"], *order["arguments"]]
    strings += [f"{name}={value}" for name, value in sorted(order["environment"].items())]
    text = b"".join(os.fsencode(word) + b"\0" for word in strings)
    head = struct.pack(
        "=IIIIQ", len(program), len(text), len(strings), len(order["arguments"]), order["files"]
    )
    return head + program + text


class Failure(Exception):
    """What kept the command from being executed: `task`, and the kernel's reason in `words`."""

    def __init__(self, data: bytes) -> None:
        task, number = struct.unpack("=ii", data)
        self.task = chr(task)
        self.words = os.strerror(number)
        super().__init__(self.words)


EXECUTION, DIRECTORY = "e", "d"
"""Tasks that fail by what the step asks for; all others, by this machine."""
