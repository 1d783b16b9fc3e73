"""What `launcher/init` is asked and answers, as bytes; called by `init` and `monitor`."""

from __future__ import annotations

import os
import struct
from typing import TypedDict

START, SIGNAL = "c", "s"
"""Kinds of requests."""

READY, REFUSED, ENDED, GONE = "r", "f", "e", "g"
"""Kinds of answers."""

EXECUTION, DIRECTORY = "e", "d"
"""Tasks that fail by what a command asks for; all others, by this machine."""

SIZE = struct.calcsize("=4i")


class Order(TypedDict):
    """A command. `arguments` begin with argv[0]; `files` is the soft limit of open files."""

    directory: str
    executable: str
    arguments: list[str]
    environment: dict[str, str]
    files: int


class Answer(TypedDict):
    """An answer; `value` is a status, or the letter of a task that failed with the errno `reason`."""

    kind: str
    command: int
    value: int
    reason: int


def encode(order: Order, program: bytes) -> bytes:
    """The order in bytes; the command runs under the system call filter `program`."""
    strings = [order["directory"], order["executable"], *order["arguments"]]
    strings += [f"{name}={value}" for name, value in sorted(order["environment"].items())]
    text = b"".join(os.fsencode(word) + b"\0" for word in strings)
    head = struct.pack(
        "=IIIIQ", len(program), len(text), len(strings), len(order["arguments"]), order["files"]
    )
    return head + program + text


def encode_request(kind: str, command: int, value: int = 0) -> bytes:
    """A request that is about the command of a number."""
    return struct.pack("=3i", ord(kind), command, value)


def decode(data: bytes) -> Answer:
    """An answer of bytes."""
    kind, command, value, reason = struct.unpack("=4i", data)
    return Answer(kind=chr(kind), command=command, value=value, reason=reason)
