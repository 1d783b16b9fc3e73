"""Talks to a sandbox's first process, `launcher/init`: the socket, its messages, and commands.

Called by the runtimes and `runner`. Before a command starts, it is looked up inside, so that a missing one
has an error that says so. `monitor` talks to `launcher/init` without this module, whose imports take too
long.
"""

from __future__ import annotations

import errno
import os
import posixpath
import resource
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TypedDict

from packhorse.base.sandbox import Command, SandboxSpec
from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import CommandNotFound, NotExecutable, PackhorseError, SandboxError, TreeError

_DEFAULT_PATH = "/bin:/usr/bin"
"""What execvp(3) searches when there is no PATH."""


def check_executable(tree: TreeView, name: str, *, cwd: str, env: Mapping[str, str]) -> None:
    """Returns when `name` can be executed, or when only trying will tell.

    Raises CommandNotFound and NotExecutable, with docker's meaning of 127 and 126.
    """
    directories = [""] if "/" in name else env.get("PATH", _DEFAULT_PATH).split(":")
    found = ""
    for directory in directories:
        path = posixpath.normpath(posixpath.join(cwd, directory, name))
        try:
            node = tree.stat(path, follow=True)
        except TreeError:
            return  # a directory that only the step's user may search
        if node is None:
            continue
        if node.kind is NodeKind.FILE and node.mode & 0o111:
            return
        found = path
    if found:
        raise NotExecutable(
            f"{found} cannot be executed", why="it is not a regular file with execute permission"
        )
    if "/" in name:
        raise CommandNotFound(f"{name} does not exist in the image")
    raise CommandNotFound(
        f"{name} does not exist in the image",
        why=f"PATH is {':'.join(directories)}",
        fix="a buildpack's programs are on the launcher's PATH: --entrypoint launcher, the command last",
    )


def refusal_error(name: str, reason: str) -> CommandNotFound | NotExecutable:
    """The error for a command that is there, and that the kernel refused to execute, in its words."""
    if reason == os.strerror(errno.ENOENT):
        return CommandNotFound(
            f"{name} cannot be started",
            why="the interpreter or loader that it names does not exist in the image",
        )
    return NotExecutable(f"{name} cannot be started", why=reason)


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


def check_words_of(spec: SandboxSpec) -> None:
    """Raises SandboxError for what no program can be given: a NUL character, or what is no text of files.

    Commands, directories and variables come from images, whose JSON may have both.
    """
    _check_text("place of a mount", (mount.target for mount in spec.mounts))
    _check_words(spec.command)


def _check_words(command: Command) -> None:
    _check_text("command", (*command.argv, command.executable))
    _check_text("directory to start in", (command.cwd,))
    _check_text("environment", (word for variable in command.env.items() for word in variable))


def _check_text(what: str, words: Iterable[str]) -> None:
    for word in words:
        if "\0" in word:
            raise SandboxError(f"the {what} has a NUL character, with which nothing can be started")
        try:
            os.fsencode(word)
        except UnicodeEncodeError as error:
            raise SandboxError(f"the {what} has a character that is half of one", why=error.reason) from error


def make_order(command: Command, words: Sequence[str] = ()) -> Order:
    """What is to be executed: `command`, or other `words` around it. SandboxError for what cannot be told.

    PWD says where it begins, as bubblewrap does.
    """
    _check_words(command)
    words = words or words_of(command)
    return Order(
        directory=command.cwd,
        executable=words[0],
        arguments=[command.argv[0] if command.executable else words[0], *words[1:]],
        environment={**command.env, "PWD": command.cwd},
        files=soft_file_limit(),
    )


def words_of(command: Command) -> list[str]:
    """The words that are executed; a place without a command has one that it does not come to as it is."""
    if not command.argv:
        return ["/"]
    return [command.executable or command.argv[0], *command.argv[1:]]


def soft_file_limit() -> int:
    """How many files a step may have open before it asks for more, as this process may."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def start_error(name: str, directory: str, answer: Answer) -> PackhorseError:
    """The error for the command `name`, which could not be started in `directory`."""
    words = os.strerror(answer["reason"])
    task = chr(answer["value"])
    if task == EXECUTION:
        return refusal_error(name, words)
    where = f"{directory}: " if task == DIRECTORY else ""
    return SandboxError(f"{name} could not be started", why=f"{where}{words}")


class Init:
    """The first process of a sandbox. When `close` is called, or this process ends, all of that ends."""

    def __init__(self) -> None:
        self._channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take_descriptor(self, theirs: ExitStack) -> int:
        """The descriptor with which it is to be started, closed with `theirs`."""
        theirs.enter_context(self._theirs)
        return self._theirs.fileno()

    def fileno(self) -> int:
        """What is readable when there is an answer."""
        return self._channel.fileno()

    def start(self, number: int, command: Order, program: bytes, descriptors: Sequence[int]) -> None:
        """Has a command started, under a number that none which runs has, with `descriptors` as 0, 1 and on.

        `program` is its system call filter.
        """
        data = encode(command, program)
        # Its environment may have secrets, and more bytes than a message.
        with open(os.memfd_create("order", os.MFD_CLOEXEC), "wb", buffering=0) as file:  # noqa: PTH123
            file.write(data)
            with suppress(ConnectionError):  # `receive` tells that nobody is there
                message = encode_request(START, number)
                socket.send_fds(self._channel, [message], [file.fileno(), *descriptors])

    def signal(self, number: int, signal: int) -> None:
        """Sends a signal to a command that runs. Safe from a signal handler."""
        with suppress(OSError):
            self._channel.send(encode_request(SIGNAL, number, signal), socket.MSG_DONTWAIT)

    def receive(self) -> Answer | None:
        """The next answer; None when the process is gone."""
        try:
            data = self._channel.recv(SIZE)
        except ConnectionError:
            return None
        return decode(data) if data else None

    def close(self) -> None:
        """Ends the process, if it has begun and still runs."""
        self._channel.close()
        self._theirs.close()
