"""Runs the scripts that build an application, in their order, and keeps the caches that frameworks leave.

Called by `buildpack`, which plans the tasks, and by `modules`, which runs them. Turborepo and nx know what
has to be built first and build it. Without them, the scripts of the members that the application needs run
before its own. An nx application may have no package.json; then project.json names its build target.

Frameworks keep caches from one build to the next. These folders are in a layer of their own and never in the
image. While the scripts run, a folder from the last build is a link to that layer. Afterwards a new folder is
moved there. So only the first build moves files.

A kept layer of modules holds only what was installed. So the files in it are compared before and after the
scripts: what a script wrote there would be missing in the image, and scripts of another build would find it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import BuildpackFailed, InputError
from packhorse.sdk.dataclass import dataclass

from . import node_modules
from .managers.port import Manager
from .project import read_json
from .start import StartCommand
from .workspace import NX, NX_PROJECT, Workspace

_MAIN = "main.js"


def read_nx_project(directory: Path) -> Mapping[str, object]:
    """Reads project.json of a folder; empty without one. Raises InputError if it cannot be read."""
    said = read_json(directory / NX_PROJECT, f"{NX_PROJECT} of {directory.name}")
    return said if isinstance(said, dict) else {}


def nx_targets(directory: Path) -> Mapping[str, object]:
    """The targets of a project.json by their names."""
    said = read_nx_project(directory).get("targets")
    return said if isinstance(said, dict) else {}


def nx_start(workspace: Workspace) -> StartCommand | None:
    """The command that starts the output of the nx build target, run in the root; None without one."""
    build = nx_targets(workspace.app.directory).get("build")
    options = build.get("options") if isinstance(build, dict) else None
    if workspace.app.manifest or not isinstance(options, dict):
        return None
    output = options.get("outputPath")
    if not isinstance(output, str) or not output:
        return None
    output = output.replace("{workspaceRoot}/", "").replace("{projectRoot}", workspace.path)
    main = PurePosixPath(output, str(options.get("outputFileName", _MAIN)))
    return StartCommand(("node", str(main)), f"{workspace.path}/{NX_PROJECT} targets.build.options")


SCRIPTS_SETTING = "BP_NODE_RUN_SCRIPTS"
_HEROKU, _GOOGLE = "heroku-build", "gcp-build"
_TURBO = "turbo.json"
_RUNS_BUILD = re.compile(r"\b(?:run|run-script|yarn|pnpm)\s+(?:heroku-|gcp-)?build(?![\w:.-])")
_QUIET = {
    "TURBO_TELEMETRY_DISABLED": "1",
    "NX_DAEMON": "false",
    "NX_NO_CLOUD": "true",
    "NX_TUI": "false",
}


@dataclass(frozen=True, slots=True)
class Task:
    """One step of the build: a script of package.json in a folder, or a `command` of a monorepo tool."""

    script: str
    directory: Path
    command: tuple[str, ...] = ()

    def run(self, context: sdk.BuildContext, manager: Manager, root: Path) -> None:
        """Runs the task; raises BuildpackFailed if it fails."""
        env = dict(manager.env)
        if self.command:
            env |= {**_QUIET, "PATH": f"{root / 'node_modules/.bin'}:{env['PATH']}"}
        argv = self.command or (manager.command, "run", self.script)
        try:
            context.run(argv, cwd=self.directory, env=env)
        except sdk.CommandFailed as failure:
            raise BuildpackFailed(
                f"the script `{self.script}` of package.json failed",
                why=f"{failure.what}; its output is above",
                fix=f"see that `{manager.install_command} && {' '.join(argv)}` works in a fresh copy of "
                "the source, "
                f"or choose the scripts with {SCRIPTS_SETTING} (a comma-separated list; empty for none)",
            ) from failure


def choose_scripts(workspace: Workspace, setting: str | None) -> tuple[str, ...]:
    """The scripts to run: those of BP_NODE_RUN_SCRIPTS (comma-separated), else `build` if it exists.

    A `build` of a member that the application needs counts too. Scripts with Heroku's and Google's names run
    as on their platforms: `heroku-prebuild`, `heroku-build` or `gcp-build` instead of `build`, and
    `heroku-postbuild`, which may run the build itself. An empty `gcp-build` means that nothing runs, not even
    `build`. Raises InputError for a name that no project has.
    """
    own = workspace.app.scripts
    there = {*own, *nx_targets(workspace.app.directory)}
    if workspace.is_member:
        there.update(*(workspace.members[path].scripts for path in workspace.needed_members(dev=True)))
    if setting is not None:
        chosen = tuple(name.strip() for name in setting.split(",") if name.strip())
        missing = [name for name in chosen if name not in there]
        if missing and not any((workspace.root.directory / name).is_file() for name in (_TURBO, NX)):
            raise InputError(
                f"{SCRIPTS_SETTING} names a script that package.json does not have: {', '.join(missing)}",
                why=f"it has {', '.join(sorted(there)) or 'none'}",
            )
        return chosen
    after = own.get("heroku-postbuild")
    main = next((name for name in (_HEROKU, _GOOGLE) if name in own), "build" if "build" in there else "")
    is_empty = main == _GOOGLE and not own[_GOOGLE].strip()
    if is_empty or (after is not None and _RUNS_BUILD.search(after)):
        main = ""
    before = "heroku-prebuild" if "heroku-prebuild" in own else ""
    return tuple(name for name in (before, main, "heroku-postbuild" if after is not None else "") if name)


def completed_scripts(workspace: Workspace, scripts: Sequence[str]) -> tuple[str, ...]:
    """The scripts that have run after `scripts`: these, and `build` if one of them runs or replaces it."""
    texts = [workspace.app.scripts.get(name, "") for name in scripts]
    is_built = any(map(_RUNS_BUILD.search, texts)) or not {_HEROKU, _GOOGLE}.isdisjoint(scripts)
    return (*scripts, "build") if is_built else tuple(scripts)


def log_scripts(log: sdk.Log, workspace: Workspace, scripts: Sequence[str], setting: str | None) -> None:
    """Logs which scripts run, or why none does, and how to choose others."""
    own = workspace.app.scripts
    if setting is None and "build" in own and not own.get(_GOOGLE, "build").strip():
        log.detail(
            f"`build` does not run: {_GOOGLE} of package.json is empty ({SCRIPTS_SETTING}=build runs it)"
        )
    if scripts and setting is None:
        log.detail(
            f"build scripts: {', '.join(scripts)} (package.json; {SCRIPTS_SETTING}= runs none, "
            "or those it names)"
        )
    elif setting is not None:
        log.detail(f"build scripts: {', '.join(scripts) or 'none'} ({SCRIPTS_SETTING})")


def plan_tasks(workspace: Workspace, scripts: Sequence[str]) -> tuple[Task, ...]:
    """The tasks that run `scripts` for the application of `workspace`."""
    root, app = workspace.root, workspace.app
    if not workspace.is_member:
        return tuple(Task(script, root.directory) for script in scripts)
    tasks: list[Task] = []
    for script in scripts:
        command = _monorepo_command(workspace, script)
        if command:
            tasks.append(Task(script, root.directory, command))
            continue
        if script != "build":
            tasks.append(Task(script, app.directory))
            continue
        members = [workspace.members[path] for path in workspace.needed_members(dev=True)]
        tasks += [Task("build", member.directory) for member in members if "build" in member.scripts]
    return tuple(tasks)


def _monorepo_command(workspace: Workspace, script: str) -> tuple[str, ...]:
    """The command of the monorepo tool; empty without one."""
    root, app = workspace.root, workspace.app
    there = set(root.dependency_names(("dependencies", "devDependencies")))
    if "turbo" in there and (root.directory / _TURBO).is_file():
        return ("turbo", "run", script, f"--filter={app.name or f'./{workspace.path}'}")
    if "nx" in there and (root.directory / NX).is_file():
        return ("nx", "run", f"{read_nx_project(app.directory).get('name') or app.name}:{script}")
    return ()


CACHE_FOLDERS = {
    "node_modules/.cache": "webpack, Babel, Terser, Docusaurus, Nuxt 3 and others",
    "node_modules/.vite": "Vite",
    "node_modules/.vite-temp": "Vite",
    "node_modules/.tmp": "TypeScript, as Vite's templates set it up",
    "node_modules/.astro": "Astro",
    ".next/cache": "Next.js",
    ".angular/cache": "Angular",
    ".parcel-cache": "Parcel",
    ".turbo": "Turborepo",
    ".nx": "nx",
    ".swc": "SWC",
}
"""The folders, and the tools that make them. `.nuxt`, `.cache` of Gatsby, `.svelte-kit` and `.docusaurus` are
not here: programs need them at launch, or they fit only the output of the same build."""

TSBUILDINFO = ".tsbuildinfo"
"""The ending of TypeScript's build records. They are not restored: with them, TypeScript would not write its
output, which is not kept."""

_CACHE_LAYER = "build-cache"


@dataclass(slots=True)
class FrameworkCaches:
    """The cache folders of the projects at `places` below `root`; `key` is the key of their layer."""

    context: sdk.BuildContext
    root: Path
    places: tuple[str, ...]
    key: dict[str, str]
    _layer: sdk.Layer | None = None

    def restore(self) -> None:
        """Links the folders of the last build into the application."""
        if not (self.context.layers / f"{_CACHE_LAYER}.toml").is_file():
            return
        self._ensure_layer()
        for folder in self._folders():
            kept, here = self._cached_folder(folder), self.root / folder
            if _is_link_to(here, kept):
                kept.mkdir(parents=True, exist_ok=True)
            elif kept.is_dir() and not here.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                here.symlink_to(kept)

    def save(self) -> None:
        """Removes the folders from the application; moves new ones into the layer."""
        for folder in self._folders():
            kept, here = self._cached_folder(folder), self.root / folder
            # Modules for the build are in a layer that stays as it is: it keeps the link.
            is_elsewhere = here.parent.is_symlink()
            if _is_link_to(here, kept) and not is_elsewhere:
                here.unlink()
            elif here.is_dir() and not here.is_symlink():
                self._ensure_layer()
                import shutil  # only a folder that is new needs it

                shutil.rmtree(kept, ignore_errors=True)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(here, kept)
                if is_elsewhere:
                    here.symlink_to(kept)
            if "/" in folder and here.parent.is_dir() and not is_elsewhere:
                _remove_if_empty(here.parent)
            for record in kept.rglob(f"*{TSBUILDINFO}"):
                record.unlink()

    def _ensure_layer(self) -> None:
        if self._layer is None:
            self._layer = self.context.layer(_CACHE_LAYER, key=self.key, cache=True)

    def _cached_folder(self, folder: str) -> Path:
        return self.context.layers / _CACHE_LAYER / folder

    def _folders(self) -> Iterator[str]:
        for place in self.places:
            yield from (f"{place}/{folder}" if place else folder for folder in CACHE_FOLDERS)


def framework_caches(
    context: sdk.BuildContext, root: Path, members: Iterable[str], version: str
) -> FrameworkCaches:
    """The caches of a source and of the `members` of its workspace, for one line of Node.js."""
    key = {"Node.js line": version.partition(".")[0], "architecture": context.target.arch}
    return FrameworkCaches(context, root, ("", *members), key)


def _is_link_to(link: Path, target: Path) -> bool:
    return link.is_symlink() and link.readlink() == target


def _remove_if_empty(folder: Path) -> None:
    """Removes an empty folder, which was made for a link."""
    if not any(folder.iterdir()):
        folder.rmdir()


FileIndex = Mapping[str, tuple[int, int, int]]
"""Mode, size and modification time of each file by its path. Not the inode's change time: other builds that
link to the same file change it."""


def index_files(layer: Path, members: Collection[str]) -> FileIndex:
    """Indexes all files below `layer`, which may be missing, without caches and package managers' records."""
    spared = {str(PurePosixPath(place, folder)) for place in ("", *members) for folder in CACHE_FOLDERS}
    found: dict[str, tuple[int, int, int]] = {}
    folders = [""] if layer.is_dir() else []
    while folders:
        above = folders.pop()
        with os.scandir(layer / above) as entries:
            for entry in entries:
                path = f"{above}/{entry.name}" if above else entry.name
                if path in spared:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                status = entry.stat(follow_symlinks=False)
                found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def find_changes(layer: Path, before: FileIndex, now: FileIndex) -> tuple[str, ...]:
    """The files that were added, changed or removed. Removes new build records of TypeScript."""
    found = []
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) == now.get(path) or _is_record(path):
            continue
        if path.endswith(TSBUILDINFO) and path not in before:
            (layer / path).unlink()
        else:
            found.append(path)
    return tuple(found)


def _is_record(path: str) -> bool:
    return any(PurePosixPath(path).match(f"node_modules/{pattern}") for pattern in node_modules.RECORDS)
