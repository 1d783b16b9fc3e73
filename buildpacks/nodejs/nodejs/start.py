"""The command that starts an application, run so that signals reach Node.js itself.

On the arrow plan → layers; pure but for looking which files there are. Called by `nodejs.buildpack`. npm is
not in the image: the `start` script is run without it, and without a shell if it is a plain command.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from packhorse.errors import InputError

from .project import Project

_ENTRIES = ("server.js", "app.js", "index.js", "server.mjs", "app.mjs", "index.mjs")
# Anything a shell would act upon outside of quotes, and an assignment before the command.
_NEEDS_SHELL = re.compile(r"[$`|&;<>()*?\[\]{}~#\n\\]|^\s*\w+=")
# What cannot be the operand of `exec`: a list, a pipe, a group, a loop.
_NOT_ONE_COMMAND = re.compile(r"[|&;()\n{}]|^\s*(?:if|for|while|until|case)\b")
_ASSIGNMENTS = re.compile(r"""(?:\w+=(?:"[^"]*"|'[^']*'|[^\s"'])*\s+)*""")
_NPM_RUN = re.compile(r"^\s*npm\s+(?:run|run-script)\s+(?:--silent\s+|-s\s+)?([\w:.-]+)\s*$")
_NPM = re.compile(r"(?:^|[\s;&|(])(?:npm|npx)\s")
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Start:
    """A command and its source in words; `gets_signals` is false when a shell stays between."""

    command: tuple[str, ...]
    source: str
    gets_signals: bool = True


def find(project: Project, *, generated: bool) -> Start | None:
    """The command for `project`: its `start` script, else its `main`, else the first entry file there is.

    `generated` says that build scripts will run, so `main` may name a file that is still to come. None when
    there is nothing to start but a Procfile. Raises InputError without any of these, and for a script that
    needs npm.
    """
    if "start" in project.scripts:
        return _script(project)
    if project.main and (generated or _resolves(project)):
        return Start(("node", project.main), "package.json main")
    for entry in _ENTRIES:
        if (project.directory / entry).is_file():
            return Start(("node", entry), f"there is {entry}")
    if (project.directory / "Procfile").is_file():
        return None
    missing = f"package.json main names {project.main}, which is not there; " if project.main else ""
    raise InputError(
        "there is nothing to start",
        why=f"{missing}package.json has no start script, and there is no {', '.join(_ENTRIES[:3])}",
        fix='add to package.json: "scripts": {"start": "node <your file>.js"}',
    )


def _resolves(project: Project) -> bool:
    """Whether Node.js would find `main`, which may leave out `.js` or name a folder with an index.js."""
    candidates = (project.main, f"{project.main}.js", f"{project.main}/index.js")
    return any((project.directory / candidate).is_file() for candidate in candidates)


def _script(project: Project) -> Start:
    source = "package.json scripts.start"
    script = _expanded(project, "start")
    before = project.scripts.get("prestart", "")
    if _NPM.search(f"{before} ; {script} "):
        raise InputError(
            "the start script calls npm or npx, which are not in the image",
            why=f"prestart: {before}\nstart: {script}" if before else f"start: {script}",
            fix="name the command itself, as in `node server.js`; modules' commands are on PATH",
        )
    if not before and not _NEEDS_SHELL.search(script):
        return Start(tuple(_words(script.removeprefix("exec "))), source)
    last = _with_exec(script)
    line = last or script
    if before:
        line = f"{{ {before}\n}} && {line}"
    return Start(("sh", "-c", line), source, gets_signals=last is not None)


def _expanded(project: Project, name: str) -> str:
    """The script, followed through scripts that are nothing but `npm run <other>`."""
    script = project.scripts[name]
    for _ in range(_DEPTH):
        match = _NPM_RUN.match(script)
        if match is None or match[1] not in project.scripts:
            break
        script = project.scripts[match[1]]
    return script


def _with_exec(script: str) -> str | None:
    """`script` with its last command taking the shell's place, to get its signals.

    Understands single commands joined by `&&`, with assignments before them; None for anything else.
    """
    commands = [command.strip() for command in script.split("&&")]
    if any(_NOT_ONE_COMMAND.search(command) or not _is_closed(command) for command in commands):
        return None
    match = _ASSIGNMENTS.match(commands[-1])
    assert match is not None  # it matches nothing, too
    command = commands[-1][match.end() :].removeprefix("exec ")
    return " && ".join([*commands[:-1], f"{match[0]}exec {command}"])


def _is_closed(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


def _words(script: str) -> list[str]:
    try:
        words = shlex.split(script)
    except ValueError as error:
        raise InputError("the start script has an open quote", why=script, fix="close it") from error
    if not words:
        raise InputError("the start script is empty", fix='write a command, as in "node server.js"')
    return words
