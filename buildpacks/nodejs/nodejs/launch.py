"""What an image has for its start beside Node.js and the modules: the layer `start`.

On the arrow plan → layers. Called by `nodejs.buildpack`. The layer has variables, those of `npm start` too,
and a program that the launcher runs first: it sizes the heap by the container's memory and
opens the inspector (launcher/node-options). It is native, since run images may have neither shell nor Python.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.errors import BuildError, InputError

from . import start
from .project import Project
from .start import START_SCRIPT, Start
from .workspace import Workspace

_PROGRAM = "node-options"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SWITCHES = ("BPL_NODE_OPTIMIZE_MEMORY", "BPL_NODE_SOURCE_MAPS", "BPL_DEBUG_ENABLED")
_SETTINGS = (*_SWITCHES, "BPL_DEBUG_HOST", "BPL_DEBUG_PORT")


def set_up(context: sdk.BuildContext, workspace: Workspace, starts: Mapping[str, Start]) -> None:
    """Makes or keeps the layer, and says what starts each process; `starts` has their commands by type.

    Raises InputError for a switch that is neither on nor off, and BuildError when the buildpack's directory
    lacks the program.
    """
    program = context.buildpack.directory / "lib/programs" / f"{_PROGRAM}-linux-{context.target.arch}"
    if not program.is_file():
        raise BuildError(
            f"this copy of the buildpack has no {_PROGRAM} for {context.target.arch}",
            why=f"there is no {program}",
            fix="use the buildpack that comes with packhorse, or let packhorse take its source with "
            "programs.txt in it: packhorse puts the program there",
        )
    variables = _variables(context, workspace.app)
    folders = start.places(workspace, *starts.values())
    commands = ":".join(str(place / "node_modules/.bin") for place in folders)
    own = {f"{name} of {type}": text for type, found in starts.items() for name, text in found.env.items()}
    key = {**variables, **own, "PATH": commands, _PROGRAM: hashlib.sha256(program.read_bytes()).hexdigest()}
    for type, found in starts.items():
        _say(context.log, type, found)
    layer = context.layer("start", key=key, launch=True)
    if layer.kept:
        return
    for name, value in variables.items():
        if value:
            layer.set_env(name, value, action="default", phase="launch")
    layer.set_env("PATH", commands, action="prepend", delimiter=":", phase="launch")
    for type, found in starts.items():
        for name, value in found.env.items():
            if name == "NODE_OPTIONS":
                # Plug'n'Play has its own there, without which no module is found.
                layer.set_env(name, value, action="append", delimiter=" ", phase="launch", process=type)
            else:
                layer.set_env(name, value, phase="launch", process=type)
    layer.add_exec_d(program, name=_PROGRAM)


def _say(log: sdk.Log, type: str, found: Start) -> None:
    variables = "".join(f"{name}={shlex.quote(value)} " for name, value in found.env.items())
    name = found.command[0]
    shell = f"; the run image has to have {name}" if name in ("sh", "bash") else ""
    log.detail(f"{type}: {variables}{shlex.join(found.command)} ({found.source}{shell})")
    if found.left_out:
        keeps = "" if found.chosen else f"; {START_SCRIPT}=start keeps it"
        log.detail(f"not run at the start, since the build has run it: {', '.join(found.left_out)}{keeps}")
    if found.managers:
        log.warning(f"{found.managers[0]} stays between the container and {type}: it may not pass SIGTERM on")
    elif not found.gets_signals:
        log.warning(f"the process {type} keeps a shell, which does not pass SIGTERM on to Node.js")


def _variables(context: sdk.BuildContext, project: Project) -> dict[str, str]:
    """Variables that hold at launch unless the user sets them then; those without a value are left out."""
    return {
        # What the user set for the build holds for launch too; else the execution environment's name.
        "NODE_ENV": context.env.get("NODE_ENV") or context.exec_env,
        "npm_package_name": project.name,
        "npm_package_version": project.version,
        **dict(_config("npm_package_config", project.manifest.get("config"))),
        **{name: value for name, value in _settings(context.env).items() if value},
    }


def _config(name: str, said: object) -> Iterator[tuple[str, str]]:
    """What `config` of package.json says, by the variables that npm makes of it."""
    if isinstance(said, Mapping):
        for key, value in said.items():
            yield from _config(f"{name}_{key}", value)
    elif isinstance(said, list):
        for number, value in enumerate(said):
            yield from _config(f"{name}_{number}", value)
    elif _NAME.fullmatch(name) and isinstance(said, str | int | float) and _is_text(str(said)):
        yield name, str(said).lower() if isinstance(said, bool) else str(said)


def _is_text(value: str) -> bool:
    """Whether a variable can have the value: half a character of JSON's cannot be written."""
    return "\0" not in value and value.encode(errors="replace").decode() == value


def _settings(env: Mapping[str, str]) -> dict[str, str]:
    """The settings for launch that were made for the build: they become the image's defaults."""
    settings = {name: env.get(name, "").strip() for name in _SETTINGS}
    if not settings["BPL_NODE_OPTIMIZE_MEMORY"]:
        settings["BPL_NODE_OPTIMIZE_MEMORY"] = env.get("BP_NODE_OPTIMIZE_MEMORY", "").strip()
    for name in _SWITCHES:
        if settings[name] not in ("", "true", "false", "1", "0"):
            raise InputError(f"{name} is neither true nor false: {settings[name]}")
    return settings
