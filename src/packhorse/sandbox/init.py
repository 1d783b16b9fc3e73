"""Talks to a sandbox's first process, `launcher/init`: the socket, its messages, and commands.

Called by the runtimes, `monitor` and `runner`. A command is looked up in the sandbox before it starts, so
that the error for a missing one says that it is missing.
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
"""The directories that execvp(3) searches if there is no PATH."""


def check_executable(tree: TreeView, name: str, *, cwd: str, env: Mapping[str, str]) -> None:
    """Raises CommandNotFound or NotExecutable if `name` cannot be executed; docker's statuses 127 and 126.

    Returns if it can be executed, and if only the user in the sandbox could tell.
    """
    directories = [""] if "/" in name else env.get("PATH", _DEFAULT_PATH).split(":")
    found = ""
    for directory in directories:
        path = posixpath.normpath(posixpath.join(cwd, directory, name))
        try:
            node = tree.stat(path, follow=True)
        except TreeError:
            return  # a directory that only the user in the sandbox may search
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
    """Returns the error for a command that exists but that the kernel refused with `reason` (strerror)."""
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
"""What init was doing when it failed: executing the program, or entering its directory. The command itself is
the reason of these two; other letters mean that the machine is.
"""

SIZE = struct.calcsize("=4i")
"""Bytes of an answer."""


class Order(TypedDict):
    """A command as init gets it. `arguments` begin with argv[0]; `files` is the soft limit of open files."""

    directory: str
    executable: str
    arguments: list[str]
    environment: dict[str, str]
    files: int


class Answer(TypedDict):
    """An answer of init; `value` is an exit status, or the letter of what failed with the errno `reason`."""

    kind: str
    command: int
    value: int
    reason: int


def encode(order: Order, program: bytes) -> bytes:
    """Encodes an order; the command will run under the system call filter `program`."""
    strings = [order["directory"], order["executable"], *order["arguments"]]
    strings += [f"{name}={value}" for name, value in sorted(order["environment"].items())]
    text = b"".join(os.fsencode(word) + b"\0" for word in strings)
    head = struct.pack(
        "=IIIIQ", len(program), len(text), len(strings), len(order["arguments"]), order["files"]
    )
    return head + program + text


def encode_request(kind: str, command: int, value: int = 0) -> bytes:
    """Encodes a request about the command with the number `command`."""
    return struct.pack("=3i", ord(kind), command, value)


def decode(data: bytes) -> Answer:
    """Decodes an answer, SIZE bytes."""
    kind, command, value, reason = struct.unpack("=4i", data)
    return Answer(kind=chr(kind), command=command, value=value, reason=reason)


def check_words_of(spec: SandboxSpec) -> None:
    """Raises SandboxError for text that no program can receive: a NUL character, or half a surrogate pair.

    Commands, directories and variables come from images, whose JSON may contain both.
    """
    _check_text("target of a mount", (mount.target for mount in spec.mounts))
    _check_words(spec.command)


def _check_words(command: Command) -> None:
    _check_text("command", (*command.argv, command.executable))
    _check_text("directory to start in", (command.cwd,))
    _check_text("environment", (word for variable in command.env.items() for word in variable))


def _check_text(what: str, words: Iterable[str]) -> None:
    for word in words:
        if "\0" in word:
            raise SandboxError(f"the {what} has a NUL character", why="no program can receive one")
        try:
            os.fsencode(word)
        except UnicodeEncodeError as error:
            raise SandboxError(f"the {what} has half of a surrogate pair", why=error.reason) from error


def make_order(command: Command, words: Sequence[str] = ()) -> Order:
    """Makes the order that runs `command`, or `words` in its place; SandboxError (see `check_words_of`).

    PWD is the directory that the command starts in, as bubblewrap sets it.
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
    """Returns the program to execute and its arguments, without argv[0]."""
    if not command.argv:
        return ["/"]  # no default command: the shell line needs a word, which the user replaces
    return [command.executable or command.argv[0], *command.argv[1:]]


def soft_file_limit() -> int:
    """Returns how many files a command may have open by default: as many as this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def start_error(name: str, directory: str, answer: Answer) -> PackhorseError:
    """Returns the error for the command `name`, which could not be started in `directory`."""
    words = os.strerror(answer["reason"])
    task = chr(answer["value"])
    if task == EXECUTION:
        return refusal_error(name, words)
    where = f"{directory}: " if task == DIRECTORY else ""
    return SandboxError(f"{name} could not be started", why=f"{where}{words}")


class Init:
    """Our end of the socket to a sandbox's first process. When it closes, the whole sandbox ends.

    It closes with `close`, or when this process ends.
    """

    def __init__(self) -> None:
        self._channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def take_descriptor(self, theirs: ExitStack) -> int:
        """Returns the descriptor that the first process has to inherit; `theirs` closes our copy of it."""
        theirs.enter_context(self._theirs)
        return self._theirs.fileno()

    def fileno(self) -> int:
        """Returns a descriptor that is readable when there is an answer."""
        return self._channel.fileno()

    def start(self, number: int, command: Order, program: bytes, descriptors: Sequence[int]) -> None:
        """Starts a command, which gets `descriptors` as 0, 1 and on, under the system call filter `program`.

        `number` must differ from those of all commands that run.
        """
        data = encode(command, program)
        # A message has too little room for an environment.
        with open(os.memfd_create("order", os.MFD_CLOEXEC), "wb", buffering=0) as file:  # noqa: PTH123
            file.write(data)
            with suppress(ConnectionError):  # the process is gone, which `receive` reports
                message = encode_request(START, number)
                socket.send_fds(self._channel, [message], [file.fileno(), *descriptors])

    def signal(self, number: int, signal: int) -> None:
        """Sends a signal to a command that runs. A signal handler may call this."""
        with suppress(OSError):
            self._channel.send(encode_request(SIGNAL, number, signal), socket.MSG_DONTWAIT)

    def receive(self) -> Answer | None:
        """Waits for the next answer and returns it; None if the process is gone."""
        try:
            data = self._channel.recv(SIZE)
        except ConnectionError:
            return None
        return decode(data) if data else None

    def close(self) -> None:
        """Ends the first process if it was started, and with it the sandbox."""
        self._channel.close()
        self._theirs.close()
