"""Reads the Procfile, and makes the layer `start` with what processes need at launch.

Called by `buildpack`. A Procfile's command is read like a script of package.json: the image has no package
manager, so `npm start` becomes what it runs. bash runs what needs a shell.

The layer has variables, also those of `npm start`, and a program that the launcher runs first. The program
sets the heap's size from the container's memory and opens the inspector (launcher/node-options). It is
native, because run images may have neither a shell nor Python.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.errors import BuildError, InputError
from packhorse.sdk.dataclass import dataclass, field

from . import outputs, programs, script, start
from .programs import Engines
from .project import Project
from .start import START_SCRIPT, StartCommand
from .workspace import Workspace

NAME = "Procfile"
WEB = "web"


@dataclass(frozen=True, slots=True)
class Processes:
    """The start command of each process by its type, `web` first; they run in `project`."""

    project: Project
    starts: Mapping[str, StartCommand] = field(default_factory=dict)

    @classmethod
    def read(cls, context: sdk.BuildContext, workspace: Workspace, built: Collection[str] = ()) -> Processes:
        """Reads the Procfile of the application, else the one of its workspace or source.

        Scripts that are `built` are left out of commands that run them first. Raises InputError for a file
        that cannot be used, and if `web` needs a package manager. For another process it only warns, because
        the application may not need it.
        """
        folders = (workspace.app.directory, workspace.root.directory, context.app)
        folder = next((folder for folder in folders if os.path.lexists(folder / NAME)), None)
        if folder is None:
            return cls(workspace.app)
        found = sdk.Procfile.read(folder / NAME)
        assert found is not None  # since the file is there
        for warning in found.warnings:
            context.log.warning(f"{NAME}: {warning}")
        commands = dict(found.commands)
        if WEB in commands and start.is_chosen(context.env):
            context.log.detail(
                f"{WEB} of the {NAME} is not used: a variable of this build names what to start"
            )
            del commands[WEB]
        project = _project(workspace, folder)
        types = sorted(commands, key=lambda type: type != WEB)
        is_built = built if project is workspace.app else ()
        starts = {type: _read_start(context, project, type, commands[type], is_built) for type in types}
        return cls(project, starts)

    @property
    def web(self) -> StartCommand | None:
        """The command of `web`, if the Procfile has one."""
        return self.starts.get(WEB)

    @property
    def others(self) -> Mapping[str, StartCommand]:
        """The commands of all processes except `web`."""
        return {type: found for type, found in self.starts.items() if type != WEB}

    def check_others(
        self, context: sdk.BuildContext, workspace: Workspace, image: Engines, version: str
    ) -> Mapping[str, StartCommand]:
        """The commands of all processes except `web`; warns of one that cannot start, and does not fail."""
        checked = {}
        for type, found in self.others.items():
            try:
                outputs.refuse_missing(self.project, found)
                checked[type] = programs.check_start(context, workspace, found, image, version=version)
            except InputError as error:
                _warn(context.log, type, error)
                checked[type] = found
        return checked


def _project(workspace: Workspace, folder: Path) -> Project:
    """The project in the folder of the Procfile, which may have no package.json."""
    known = (workspace.app, workspace.root)
    return next((one for one in known if one.directory == folder), None) or Project.read(folder)


def _read_start(
    context: sdk.BuildContext, project: Project, type: str, command: str, built: Collection[str]
) -> StartCommand:
    source = f"{NAME} {type}"
    try:
        read = script.read_script_text(project, command, f"{NAME}'s {type}", shell="bash", built=built)
    except InputError as error:
        if type == WEB:
            raise
        _warn(context.log, type, error)
        runtimes = ("node", "bun") if "bun" in command.split() else ("node",)
        read = script.Command(("bash", "-c", command), programs=runtimes, gets_signals=False)
    return start.start_of_command(read, source, chosen=True)


def _warn(log: sdk.Log, type: str, error: InputError) -> None:
    log.warning(f"the process {type} of the {NAME} cannot start: {error.what}\n{error.why}\n{error.fix}")


_PROGRAM = "node-options"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_SWITCHES = ("BPL_NODE_OPTIMIZE_MEMORY", "BPL_NODE_SOURCE_MAPS", "BPL_DEBUG_ENABLED")
_SETTINGS = (*_SWITCHES, "BPL_DEBUG_HOST", "BPL_DEBUG_PORT")


def provide_start_layer(
    context: sdk.BuildContext, workspace: Workspace, starts: Mapping[str, StartCommand]
) -> None:
    """Makes or keeps the layer `start`, and logs each start command; `starts` has them by process type.

    Raises InputError for a switch that is neither on nor off, and BuildError if the buildpack's directory
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
    folders = start.module_folders(workspace, *starts.values())
    commands = ":".join(str(place / "node_modules/.bin") for place in folders)
    own = {f"{name} of {type}": text for type, found in starts.items() for name, text in found.env.items()}
    key = {**variables, **own, "PATH": commands, _PROGRAM: hashlib.sha256(program.read_bytes()).hexdigest()}
    for type, found in starts.items():
        _log_start(context.log, type, found)
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
                # Plug'n'Play sets its own, without which no module is found.
                layer.set_env(name, value, action="append", delimiter=" ", phase="launch", process=type)
            else:
                layer.set_env(name, value, phase="launch", process=type)
    layer.add_exec_d(program, name=_PROGRAM)


def _log_start(log: sdk.Log, type: str, found: StartCommand) -> None:
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
    """Variables for launch, which the user can override then."""
    return {
        # The user's value for the build, else the name of the execution environment.
        "NODE_ENV": context.env.get("NODE_ENV") or context.exec_env,
        "npm_package_name": project.name,
        "npm_package_version": project.version,
        **dict(_npm_config_variables("npm_package_config", project.manifest.get("config"))),
        **{name: value for name, value in _launch_settings(context.env).items() if value},
    }


def _npm_config_variables(name: str, said: object) -> Iterator[tuple[str, str]]:
    """The variables that npm makes of `config` in package.json."""
    if isinstance(said, Mapping):
        for key, value in said.items():
            yield from _npm_config_variables(f"{name}_{key}", value)
    elif isinstance(said, list):
        for number, value in enumerate(said):
            yield from _npm_config_variables(f"{name}_{number}", value)
    elif _NAME.fullmatch(name) and isinstance(said, str | int | float) and _is_text(str(said)):
        yield name, str(said).lower() if isinstance(said, bool) else str(said)


def _is_text(value: str) -> bool:
    """Whether a variable can have the value: JSON may have half a character."""
    return "\0" not in value and value.encode(errors="replace").decode() == value


def _launch_settings(env: Mapping[str, str]) -> dict[str, str]:
    """The launch settings that the user gave to the build: they become the image's defaults."""
    settings = {name: env.get(name, "").strip() for name in _SETTINGS}
    if not settings["BPL_NODE_OPTIMIZE_MEMORY"]:
        settings["BPL_NODE_OPTIMIZE_MEMORY"] = env.get("BP_NODE_OPTIMIZE_MEMORY", "").strip()
    for name in _SWITCHES:
        if settings[name] not in ("", "true", "false", "1", "0"):
            raise InputError(f"{name} is neither true nor false: {settings[name]}")
    return settings
