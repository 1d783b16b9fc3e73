"""Finds the command that starts an application, so that signals reach Node.js itself.

Only looks which files exist. Called by `buildpack`. The image has no package manager, so `script` turns the
`start` script into a command without one. `outputs` finds what only the build makes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field

from . import script
from .detection import BUN_ENTRIES, ENTRIES, LAUNCHPOINT, STEMS
from .project import Project
from .workspace import Workspace

START_SCRIPT = "BP_NPM_START_SCRIPT"
TYPESCRIPT = (".ts", ".mts", ".cts")
_RUNNERS = ("node", "bun")


@dataclass(frozen=True, slots=True)
class StartCommand:
    """A command and its source; `gets_signals` is false if a shell stays between.

    `chosen` says that the user named it for this build. The other fields are those of `script.Command`.
    """

    command: tuple[str, ...]
    source: str
    gets_signals: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    after: str = ""
    chosen: bool = False
    folders: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()

    @property
    def runner(self) -> str:
        """`node` or `bun`, if the command is only one of these with a file; else empty."""
        runs = self.command[0] in _RUNNERS and self.programs in ((), self.command[:1])
        return self.command[0] if runs else ""

    @property
    def file(self) -> str:
        """The file that `runner` runs; empty if options come first."""
        words = self.command[2:] if self.command[:2] == ("bun", "run") else self.command[1:]
        return words[0] if self.runner and words and not words[0].startswith("-") else ""


def is_chosen(env: Mapping[str, str]) -> bool:
    """Whether the user chose the start command for this build."""
    return any(env.get(name, "").strip() for name in (LAUNCHPOINT, START_SCRIPT))


def find_start(
    project: Project,
    env: Mapping[str, str],
    *,
    generated: bool,
    required: bool = True,
    built: Collection[str] = (),
) -> StartCommand | None:
    """Finds the command for `project`: the user's choice, its `start` script, its `main`, or an entry file.

    `generated` says that build scripts will run, so files may be missing now. `built` has these scripts and
    those that they run. Returns None if there is no command yet, or none is `required`. Raises InputError if
    there is none, and for a script that needs a package manager.
    """
    file, name = env.get(LAUNCHPOINT, "").strip(), env.get(START_SCRIPT, "").strip()
    if file:
        if not generated and not file_resolves(project, file, project.runner):
            raise InputError(f"{LAUNCHPOINT} names a file that is not there: {file}")
        return StartCommand((project.runner, file), f"{LAUNCHPOINT}: {file}", chosen=True)
    if name and name not in project.scripts:
        raise InputError(
            f"{START_SCRIPT} names a script that package.json does not have: {name}",
            why=f"it has {', '.join(project.scripts) or 'none'}",
        )
    if name or "start" in project.scripts:
        return start_of_script(project, name, built=built)
    if project.main and (generated or file_resolves(project, project.main, project.runner)):
        named = "main" if project.manifest.get("main") else "module"
        return StartCommand((project.runner, project.main), f"package.json {named}")
    for entry in ENTRIES if project.runner == "node" else (*ENTRIES, *BUN_ENTRIES):
        if (project.directory / entry).is_file():
            return StartCommand((project.runner, entry), f"there is {entry}")
    if generated or not required:
        return None
    raise no_start_error(project)


def no_start_error(project: Project) -> InputError:
    """The error for an application without a start command."""
    missing = f"package.json main names {project.main}, which is not there; " if project.main else ""
    ending = "ts" if project.runner == "bun" else "js"
    return InputError(
        "there is nothing to start",
        why=f"{missing}package.json has no start script, and there is no "
        f"{', '.join(f'{stem}.{ending}' for stem in STEMS)}",
        fix=f'add to package.json: "scripts": {{"start": "{project.runner} <your file>.{ending}"}}, '
        f"or name the file in {LAUNCHPOINT}",
    )


def file_resolves(project: Project, file: str, runner: str) -> bool:
    """Whether `runner` would find `file`, which may leave out `.js` or name a folder with an index.js.

    Bun finds TypeScript and JSX as well, even where `.js` is written.
    """
    candidates = [file, f"{file}.js", f"{file}.json", f"{file}/index.js"]
    if runner == "bun":
        stems = (file, f"{file}/index", file.removesuffix(".js"))
        candidates += [f"{stem}.{ending}" for stem in stems for ending in ("ts", "tsx", "jsx")]
    return any((project.directory / candidate).is_file() for candidate in candidates)


def start_of_script(project: Project, name: str, *, built: Collection[str] = ()) -> StartCommand:
    """The command of the script that the user named, unchanged, or of `start` without a `name`."""
    read = script.read_script(project, name or "start", built=() if name else built)
    return start_of_command(read, f"package.json scripts.{name or 'start'}", chosen=bool(name))


def start_of_command(read: script.Command, source: str, *, chosen: bool) -> StartCommand:
    """The start command for a command that was read from `source`."""
    return StartCommand(
        read.argv,
        source,
        gets_signals=read.gets_signals,
        env=read.env,
        programs=read.programs,
        last=read.last,
        after=read.after,
        chosen=chosen,
        folders=read.folders,
        left_out=read.left_out,
        managers=read.managers,
    )


def module_folders(workspace: Workspace, *starts: StartCommand) -> tuple[Path, ...]:
    """The folders whose modules the application finds: folders that it enters, its own, and the root."""
    folders = [folder for found in starts for folder in found.folders[::-1]]
    return tuple(dict.fromkeys((*folders, workspace.app.directory, workspace.root.directory)))
