"""A step's command as the program `launcher/init` is told of it, and what it answers; called by the runtimes.

That program is the first process of a step in a container, and in bubblewrap's sandboxes what a step begins
as whose command is said later. How it is told is `order`'s.
"""

from __future__ import annotations

import os
import resource

from packhorse.base.step import Step
from packhorse.errors import CommandNotFound, NotExecutable, SandboxError
from packhorse.sandbox import executable
from packhorse.sandbox.order import DIRECTORY, EXECUTION, Failure, Order


def check(step: Step) -> None:
    """Raises SandboxError for what no program can be given: a NUL character, or what is no text of files.

    Commands, directories and variables come from images, whose JSON may have both.
    """
    for what, words in (
        ("command", (*step.argv, step.executable)),
        ("directory to start in", (step.cwd,)),
        ("environment", (word for variable in step.env.items() for word in variable)),
        ("place of a mount", (mount.target for mount in step.mounts)),
    ):
        for word in words:
            if "\0" in word:
                raise SandboxError(f"the {what} has a NUL character, with which nothing can be started")
            try:
                os.fsencode(word)
            except UnicodeEncodeError as error:
                raise SandboxError(
                    f"the {what} has a character that is half of one", why=error.reason
                ) from error


def order(step: Step, command: list[str], *, uids: str = "", gids: str = "") -> Order:
    """What is to be executed: `command`, which may be another one around the step's own.

    `uids` and `gids` are maps for a user namespace of the command's own. SandboxError for what cannot be
    told.
    """
    check(step)
    return Order(
        uids=uids,
        gids=gids,
        directory=step.cwd,
        executable=command[0],
        arguments=[step.argv[0] if step.executable else command[0], *command[1:]],
        environment=dict(step.env),
        files=soft_file_limit(),
    )


def soft_file_limit() -> int:
    """How many files a step may have open before it asks for more, as this process may."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def refusal(name: str, told: bytes, given: Order) -> CommandNotFound | NotExecutable | SandboxError:
    """The error for the command `name` that could not be started as it was `given`, which was `told`."""
    failure = Failure(told)
    if failure.task == EXECUTION:
        return executable.refusal(name, failure.words)
    where = f"{given['directory']}: " if failure.task == DIRECTORY else ""
    return SandboxError(f"{name} could not be started", why=f"{where}{failure.words}")
