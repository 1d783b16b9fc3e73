"""Whether a step's command exists inside, asked before it starts, so that there is an error that says so.

Called by `room` and `terminal`. Bubblewrap itself ends with 1 and a message of its own, which a step could
have printed as well.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Mapping

from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import CommandNotFound, NotExecutable, TreeError

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
