"""The commands that build an application, in their order: its scripts, and in a workspace those it needs.

On the arrow plan → layers; pure but for looking which tools the root has. Called by `nodejs.buildpack`,
and each task by `nodejs.modules`. Turborepo and nx know what has to be built first and build it; without them
the scripts of the members that the application needs run before its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import BuildpackFailed, InputError
from packhorse.sdk.dataclass import dataclass

from . import nx
from .managers.port import Manager
from .workspace import NX, Workspace

SETTING = "BP_NODE_RUN_SCRIPTS"
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
    """One step of the build: a script of package.json in a folder, or a `command` of a monorepo's tool."""

    script: str
    directory: Path
    command: tuple[str, ...] = ()

    def run(self, context: sdk.BuildContext, manager: Manager, root: Path) -> None:
        """Runs it; raises BuildpackFailed when it fails."""
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
                fix=f"see that `{manager.fresh} && {' '.join(argv)}` works in a fresh copy of the source, "
                f"or choose the scripts with {SETTING} (a comma-separated list; empty for none)",
            ) from failure


def scripts(workspace: Workspace, setting: str | None) -> tuple[str, ...]:
    """The scripts to run: those of BP_NODE_RUN_SCRIPTS (comma-separated), else `build` if there is one.

    There is, too, when a member has it that the application needs. Scripts of Heroku's and Google's names run
    as there: `heroku-prebuild`, `heroku-build` or `gcp-build` in place of `build`, and `heroku-postbuild`,
    which may run the build itself. An empty `gcp-build` runs nothing, also not `build`. Raises InputError for
    a name that no project has.
    """
    own = workspace.app.scripts
    there = {*own, *nx.targets(workspace.app.directory)}
    if workspace.is_member:
        there.update(*(workspace.members[path].scripts for path in workspace.needed(dev=True)))
    if setting is not None:
        chosen = tuple(name.strip() for name in setting.split(",") if name.strip())
        missing = [name for name in chosen if name not in there]
        if missing and not any((workspace.root.directory / name).is_file() for name in (_TURBO, NX)):
            raise InputError(
                f"{SETTING} names a script that package.json does not have: {', '.join(missing)}",
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


def covered(workspace: Workspace, scripts: Sequence[str]) -> tuple[str, ...]:
    """The scripts that a build of `scripts` has run: these, and `build` where one runs it or replaces it."""
    texts = [workspace.app.scripts.get(name, "") for name in scripts]
    is_built = any(map(_RUNS_BUILD.search, texts)) or not {_HEROKU, _GOOGLE}.isdisjoint(scripts)
    return (*scripts, "build") if is_built else tuple(scripts)


def announce(log: sdk.Log, workspace: Workspace, scripts: Sequence[str], setting: str | None) -> None:
    """Says which scripts run, or that an empty one has none run, and how to have others."""
    own = workspace.app.scripts
    if setting is None and "build" in own and not own.get(_GOOGLE, "build").strip():
        log.detail(f"`build` does not run: {_GOOGLE} of package.json is empty ({SETTING}=build runs it)")
    if scripts and setting is None:
        log.detail(
            f"build scripts: {', '.join(scripts)} (package.json; {SETTING}= runs none, or those it names)"
        )
    elif setting is not None:
        log.detail(f"build scripts: {', '.join(scripts) or 'none'} ({SETTING})")


def plan(workspace: Workspace, scripts: Sequence[str]) -> tuple[Task, ...]:
    """The tasks that run `scripts` for the application of `workspace`."""
    root, app = workspace.root, workspace.app
    if not workspace.is_member:
        return tuple(Task(script, root.directory) for script in scripts)
    tasks: list[Task] = []
    for script in scripts:
        command = _tool(workspace, script)
        if command:
            tasks.append(Task(script, root.directory, command))
            continue
        if script != "build":
            tasks.append(Task(script, app.directory))
            continue
        members = [workspace.members[path] for path in workspace.needed(dev=True)]
        tasks += [Task("build", member.directory) for member in members if "build" in member.scripts]
    return tuple(tasks)


def _tool(workspace: Workspace, script: str) -> tuple[str, ...]:
    """The command of the monorepo's own tool; empty without one."""
    root, app = workspace.root, workspace.app
    there = set(root.dependency_names(("dependencies", "devDependencies")))
    if "turbo" in there and (root.directory / _TURBO).is_file():
        return ("turbo", "run", script, f"--filter={app.name or f'./{workspace.path}'}")
    if "nx" in there and (root.directory / NX).is_file():
        return ("nx", "run", f"{nx.project(app.directory).get('name') or app.name}:{script}")
    return ()
