"""A command as the program `launcher/init` is told of it, and what it answers; called by `running`.

How it is told is `init`'s.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Sequence

from packhorse.base.step import Command, SandboxSpec
from packhorse.errors import PackhorseError, SandboxError
from packhorse.sandbox import executable
from packhorse.sandbox.order import DIRECTORY, EXECUTION, Answer, Order


def check(spec: SandboxSpec) -> None:
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
        return executable.refusal_error(name, words)
    where = f"{directory}: " if task == DIRECTORY else ""
    return SandboxError(f"{name} could not be started", why=f"{where}{words}")
