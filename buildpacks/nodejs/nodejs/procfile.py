"""The processes that a Procfile names, as commands that the image can run.

On the arrow plan → layers. Called by `nodejs.buildpack`. A command is read as a script of package.json is:
the image has no package manager, so `npm start` becomes what it runs. What needs a shell is run by bash.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field

from . import outputs, programs, script, start
from .engines import Engines
from .project import Project
from .start import Start
from .workspace import Workspace

NAME = "Procfile"
WEB = "web"


@dataclass(frozen=True, slots=True)
class Processes:
    """The start of each process by its type, `web` first; `project` is where they run."""

    project: Project
    starts: Mapping[str, Start] = field(default_factory=dict)

    @classmethod
    def read(cls, context: sdk.BuildContext, workspace: Workspace, built: Collection[str] = ()) -> Processes:
        """Reads the Procfile of the application, else the one of its workspace or source.

        The scripts that are `built` are left out of commands that run them first.
        Raises InputError for a file that cannot be used, and where `web` needs a package manager. Another
        process that does is warned of, since the application may do without it.
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
        starts = {type: _start(context, project, type, commands[type], is_built) for type in types}
        return cls(project, starts)

    @property
    def web(self) -> Start | None:
        """The command of `web`, if the Procfile has one."""
        return self.starts.get(WEB)

    @property
    def others(self) -> Mapping[str, Start]:
        """The commands of all processes but `web`."""
        return {type: found for type, found in self.starts.items() if type != WEB}

    def check_others(
        self, context: sdk.BuildContext, workspace: Workspace, image: Engines, version: str
    ) -> Mapping[str, Start]:
        """What runs for each process but `web`; one that cannot start is warned of: no build fails for it."""
        checked = {}
        for type, found in self.others.items():
            try:
                outputs.refuse_missing(self.project, found)
                checked[type] = programs.check(context, workspace, found, image, version=version)
            except InputError as error:
                _warn(context.log, type, error)
                checked[type] = found
        return checked


def _project(workspace: Workspace, folder: Path) -> Project:
    """The project in the folder of the Procfile, which may have no package.json."""
    known = (workspace.app, workspace.root)
    return next((one for one in known if one.directory == folder), None) or Project.read(folder)


def _start(
    context: sdk.BuildContext, project: Project, type: str, command: str, built: Collection[str]
) -> Start:
    source = f"{NAME} {type}"
    try:
        read = script.read_text(project, command, f"{NAME}'s {type}", shell="bash", built=built)
    except InputError as error:
        if type == WEB:
            raise
        _warn(context.log, type, error)
        runtimes = ("node", "bun") if "bun" in command.split() else ("node",)
        read = script.Command(("bash", "-c", command), programs=runtimes, gets_signals=False)
    return start.of_command(read, source, chosen=True)


def _warn(log: sdk.Log, type: str, error: InputError) -> None:
    log.warning(f"the process {type} of the {NAME} cannot start: {error.what}\n{error.why}\n{error.fix}")
