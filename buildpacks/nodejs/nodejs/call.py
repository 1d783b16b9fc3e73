"""Reads a call of a package manager in a script: which script or program it runs, where, and with what.

Pure. Called by `script`. Bun is a runtime too, so some of its calls stay as they are. Then Bun is in the
image (`programs.Engines`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from packhorse.sdk.dataclass import dataclass, replace

MANAGERS = ("npm", "yarn", "pnpm", "bun")
IGNORED_OPTIONS = {
    "-s",
    "--silent",
    "-q",
    "--quiet",
    "--if-present",
    "-y",
    "--yes",
    "--no-install",
    "--no",
    "--",
}
"""Options that do not change which script or program runs."""

_DIRECTORY = {"--prefix", "-C", "--cwd", "--dir"}
_MEMBER = {
    "npm": {"-w", "--workspace"},
    "pnpm": {"-F", "--filter"},
    "bun": {"-F", "--filter"},
}
# Commands of yarn and pnpm; any other word is the name of a module's command.
_MANAGER_COMMANDS = {
    "add",
    "ci",
    "deploy",
    "i",
    "install",
    "remove",
    "up",
    "upgrade",
    "workspace",
    "workspaces",
}
_CHANGES = {
    *("a", "add", "audit", "c", "create", "i", "info", "init", "install", "link", "outdated", "patch", "pm"),
    *("publish", "remove", "rm", "unlink", "update", "upgrade", "why"),
}
"""Commands that change modules or projects, which is too late in an image."""
_BUN_COMMANDS = {"build", "exec", "repl", "test"}
_FILE = re.compile(r"[./]")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that runs `script`. With `program` it is a module's command; with `is_program` it may be one.

    `member` is the named member of a workspace. `stays` means that Bun itself has to run it.
    """

    script: str
    arguments: tuple[str, ...] = ()
    directory: str = ""
    program: bool = False
    is_program: bool = False
    member: str = ""
    stays: bool = False

    @classmethod
    def read(cls, command: Sequence[str]) -> Call | None:
        """Reads a call; returns None if it does not run a script or a program."""
        manager, *words = command
        where, rest = _read_options(manager, words)
        verb = rest.pop(0) if rest else ""
        if manager == "bun":
            return _read_bun_call(where, verb, rest)
        if manager == "yarn" and verb == "workspace" and len(rest) > 1:
            where, verb = _Location(where.directory, (rest.pop(0),)), rest.pop(0)
        program = verb in ("exec", "x", "dlx")
        if verb in ("run", "run-script") or program:
            further, rest = _read_options(manager, rest)
            where = where.and_then(further)
            verb = rest.pop(0) if rest else ""
        elif verb in _MANAGER_COMMANDS or (manager == "npm" and verb != "start"):
            return None
        if not verb or verb.startswith("-"):
            return None
        if manager != "npm" or program:
            is_program = program or verb != "start"
            return where.call(cls(verb, tuple(rest), program=program, is_program=is_program))
        arguments, further = _read_npm_arguments(rest)
        return where.and_then(further).call(cls(verb, arguments))


@dataclass(frozen=True, slots=True)
class _Location:
    directory: str = ""
    members: tuple[str, ...] = ()

    def and_then(self, further: _Location) -> _Location:
        return _Location(further.directory or self.directory, (*self.members, *further.members))

    def call(self, call: Call) -> Call | None:
        """`call` at this place; None for several places."""
        if len(self.members) > 1 or (self.members and self.directory):
            return None
        return replace(call, directory=self.directory, member="".join(self.members))


def _read_options(manager: str, words: Sequence[str]) -> tuple[_Location, list[str]]:
    """Reads leading options: returns the place that they name, and the words after them."""
    where, rest = _Location(), list(words)
    while rest:
        option, equals, value = rest[0].partition("=")
        names = option in _DIRECTORY or option in _MEMBER.get(manager, ())
        if names and (equals or len(rest) > 1):
            value = value if equals else rest.pop(1)
            found = _Location(value) if option in _DIRECTORY else _Location("", (value,))
            where = where.and_then(found)
        elif rest[0] not in IGNORED_OPTIONS:
            break
        del rest[0]
    return where, rest


def _read_npm_arguments(words: Sequence[str]) -> tuple[tuple[str, ...], _Location]:
    """The arguments that npm passes to the script, and the place; `*` means all members."""
    given: list[str] = []
    where, rest = _Location(), list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if word == "--":
            given += rest
            break
        if option in ("-ws", "--workspaces"):
            where = where.and_then(_Location("", ("*",)))
        elif option in _DIRECTORY or option in _MEMBER["npm"]:
            value = value if equals else (rest.pop(0) if rest else "")
            where = where.and_then(_Location(value) if option in _DIRECTORY else _Location("", (value,)))
        elif not word.startswith("-"):
            given.append(word)
    return tuple(given), where


def _read_bun_call(where: _Location, verb: str, rest: list[str]) -> Call | None:
    """Reads a call of Bun. Bun itself has to run files, and options of a runtime (`--hot`, `--bun`)."""
    program, is_run = verb == "x", verb == "run"
    if not verb or verb in _CHANGES:
        return None
    if program or is_run:
        further, rest = _read_options("bun", rest)
        where = where.and_then(further)
        verb = rest.pop(0) if rest else ""
        if not verb:
            return None
    own = verb in _BUN_COMMANDS and not is_run
    stays = not program and (own or is_file(verb)) and not where.members
    return where.call(
        Call(verb, tuple(rest), program=program, is_program=True, stays=stays or verb.startswith("-"))
    )


def is_file(word: str) -> bool:
    """Whether Bun takes a word for a file and not for the name of a script."""
    return not word.startswith(("-", "@")) and bool(_FILE.search(word))
