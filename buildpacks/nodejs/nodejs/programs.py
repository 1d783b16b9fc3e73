"""Decides which programs the image needs for its start commands, and checks that it has them.

Called by `buildpack`. Every build needs Node.js, at least to fetch packages. The image needs Node.js, Bun or
both (`Engines`). It has a package manager only if a start command calls one or the user asks for it: a copy
in the layer `package-manager`, so that the build's own layers do not depend on this. Programs of modules are
looked up when the modules are installed, because a missing one would be noticed only when the container does
not start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, replace

from . import outputs, start, versions
from .call import MANAGERS
from .managers.port import Manager
from .project import DEPENDENCIES, Project
from .script import BUILTINS, RUNNERS
from .start import START_SCRIPT, StartCommand
from .versions import RequestedVersion
from .workspace import Workspace

KEEP_NPM_SETTING = "BP_NODE_KEEP_NPM"
_MANAGER_LAYER = "package-manager"
_COMMANDS = {"npm": ("npm", "npx"), "yarn": ("yarn", "yarnpkg"), "pnpm": ("pnpm", "pnpx")}
_LICENCES = {"npm": "Artistic-2.0", "yarn": "BSD-2-Clause", "pnpm": "MIT"}
# An image neither looks for newer managers nor installs anything before it runs a script.
_VARIABLES = {
    "npm_config_update_notifier": "false",
    "npm_config_manage_package_manager_versions": "false",
    "npm_config_verify_deps_before_run": "false",
    "pnpm_config_pm_on_fail": "ignore",
    "pnpm_config_update_notifier": "false",
    "pnpm_config_verify_deps_before_run": "false",
    "YARN_ENABLE_TELEMETRY": "0",
    "YARN_IGNORE_PATH": "1",
}
_PREFIXES = {"npm": ("npm_config_update",), "pnpm": ("npm_", "pnpm_"), "yarn": ("YARN_",)}


def managers_needed(env: Mapping[str, str], starts: Iterable[StartCommand], manager: str) -> dict[str, str]:
    """The package managers that the image needs, each with a reason; `manager` is the application's."""
    found: dict[str, str] = {}
    if versions.read_switch(env, KEEP_NPM_SETTING) is True:
        found = {name: KEEP_NPM_SETTING for name in ("npm", manager) if name in _COMMANDS}
    for command in starts:
        for name in command.managers:
            found.setdefault(name, f"{command.source} calls it")
    return found


def provide_managers(context: sdk.BuildContext, manager: Manager, reasons: Mapping[str, str]) -> None:
    """Makes or keeps the layer with the managers in `reasons`; logs reasons and sizes.

    Raises InputError for a manager that the build does not have, because the application uses another.
    """
    if not reasons:
        return
    programs = {name: _find_command(context, manager, name) for name in reasons}
    key = {"architecture": context.target.arch}
    for name, program in programs.items():
        if program is None:
            raise _other_manager_error(name, reasons[name], manager)
        key[name] = manager.version if name == manager.command else _package_version(_package_folder(program))
    layer = context.layer(_MANAGER_LAYER, key=key, launch=True)
    for name, program in programs.items():
        assert program is not None
        home = _package_folder(program)
        size = sum(path.lstat().st_size for path in home.rglob("*") if not path.is_dir())
        context.log.detail(f"{name} {key[name]} is in the image, {size / 1e6:.0f} MB ({reasons[name]})")
        if not layer.kept:
            _copy_manager(manager, name, home, layer)
    components = (_manager_component(name, key[name]) for name in programs)
    context.write_sbom(_MANAGER_LAYER, sdk.Bill(tuple(components)))


def _find_command(context: sdk.BuildContext, manager: Manager, name: str) -> Path | None:
    """The file that a command in the build's layers runs; None if only the build image may have it."""
    import shutil

    found = shutil.which(name, path=manager.env["PATH"])
    path = Path(os.path.realpath(found)) if found else None
    return path if path and path.is_relative_to(context.layers.resolve()) else None


def _package_folder(program: Path) -> Path:
    """The directory of the program's package; a release in the source is a single file."""
    above = program.parents[:2]
    return next((folder for folder in above if (folder / "package.json").is_file()), program.parent)


def _package_version(home: Path) -> str:
    import json

    return str(json.loads((home / "package.json").read_bytes())["version"])


def _copy_manager(manager: Manager, name: str, home: Path, layer: sdk.Layer) -> None:
    """Copies the package into the layer and links its commands."""
    import shutil

    target = layer.path / "lib/node_modules" / name
    shutil.copytree(home, target, symlinks=True)
    (layer.path / "bin").mkdir(exist_ok=True)
    for command in _COMMANDS[name]:
        if found := shutil.which(command, path=manager.env["PATH"]):
            inside = Path(os.path.realpath(found)).relative_to(home)
            (layer.path / "bin" / command).symlink_to(Path("../lib/node_modules", name, inside))
    for variable, value in _VARIABLES.items():
        if variable.startswith(_PREFIXES[name]):
            layer.set_env(variable, value, action="default", phase="launch")


def _manager_component(name: str, version: str) -> sdk.Component:
    purl = sdk.purl("npm", name, version)
    return sdk.Component(name, version, purl, licence=_LICENCES[name], kind="application")


def _other_manager_error(name: str, reason: str, manager: Manager) -> InputError:
    return InputError(
        f"the image needs {name}, but the package manager of the application is {manager.name}",
        why=reason,
        fix=f"call {manager.command} instead, or name {name} in package.json packageManager",
    )


BUN_COMMANDS = frozenset(("bun", "bunx"))
"""The commands of Bun."""

# Shell builtins that run other programs.
_RUN_OTHERS = {".", "command", "eval", "exec", "source", "trap"}


@dataclass(frozen=True, slots=True)
class Engines:
    """`bun` is the reason why Bun is in the image, empty if it is not; `node` says whether Node.js is."""

    bun: str
    node: bool

    @classmethod
    def of(
        cls,
        context: sdk.BuildContext,
        project: Project,
        found: StartCommand | None,
        said: Sequence[RequestedVersion],
        others: Sequence[StartCommand] = (),
    ) -> Self:
        """Chooses for an application that `found` and `others` start; `said` are its versions of Node.js.

        Node.js is left out only if the commands call only Bun, and neither the user, the application nor
        another buildpack asks for Node.js.
        """
        reason = ""
        if found and calls_bun(found):
            reason = found.source if found.programs else f"{found.source}; {project.bun_reason}"
        elif other := next((other for other in others if calls_bun(other)), None):
            reason = other.source
        elif found is None:
            reason = project.bun_reason
        starts = (found, *others) if found else ()
        alone = bool(reason and starts) and all(_needs_only_bun(project, one) for one in starts)
        keeps = versions.read_switch(context.env, KEEP_NPM_SETTING) is True
        return cls(reason, node=bool(not alone or said or keeps or len(context.plan) > 1))

    def log_choice(self, log: sdk.Log) -> None:
        """Logs an unusual choice."""
        if self.bun:
            log.detail(f"Bun is in the image ({self.bun})")
        if not self.node:
            log.detail("Node.js is not in the image, because only Bun is called; engines.node adds it")


def calls_bun(found: StartCommand) -> bool:
    """Whether the command needs Bun."""
    return found.command[0] in BUN_COMMANDS or not BUN_COMMANDS.isdisjoint(found.programs)


def _needs_only_bun(project: Project, found: StartCommand) -> bool:
    if found.programs:
        return BUN_COMMANDS.union(BUILTINS).difference(_RUN_OTHERS).issuperset(found.programs)
    return start.file_resolves(project, found.file, found.runner)


# Packages of programs with another name.
_PACKAGES = {
    "dotenv": "dotenv-cli",
    "dotenvx": "@dotenvx/dotenvx",
    "nest": "@nestjs/cli",
    "ng": "@angular/cli",
    "nuxi": "nuxt",
    "react-router": "@react-router/dev",
    "react-router-serve": "@react-router/serve",
    "remix-serve": "@remix-run/serve",
    "swc-node": "@swc-node/register",
    "tsc": "typescript",
    "vue-cli-service": "@vue/cli-service",
    "webpack": "webpack-cli",
}
_COMPILERS = {"tsc", "webpack", "esbuild", "rollup", "tsup", "swc", "babel", "rimraf"}
_PRODUCTION = ("start:prod", "start:production", "start-prod", "serve:prod", "production", "prod", "serve")
_STARTS = _PRODUCTION[:3]
_WATCHING = {"nodemon", "ts-node-dev", "tsnd", "node-dev", "supervisor"}
_WATCHING_OPTIONS = {"node --watch", "bun --watch", "bun --hot"}
# They run TypeScript if Node.js does not.
_TRANSLATORS = ("tsx", "ts-node")
_TRANSLATING = ("-r", "--require", "--import", "--loader", "--experimental")
# Programs that every image with sh has; sh has a message of its own.
_COMMON_PROGRAMS = {
    *(
        "sh",
        "basename",
        "cat",
        "chmod",
        "cp",
        "cut",
        "date",
        "dirname",
        "env",
        "expr",
        "find",
        "grep",
        "head",
    ),
    *("hostname", "id", "ln", "ls", "mkdir", "mv", "nice", "nohup", "rm", "sed", "sleep", "sort", "tail"),
    *("tee", "timeout", "touch", "tr", "uname", "wc", "xargs"),
}
_STRIPS_TYPES = ">=22.18.0 <23 || >=23.6.0"


def check_start(
    context: sdk.BuildContext,
    workspace: Workspace,
    found: StartCommand,
    image: Engines,
    *,
    version: str,
    built: bool = False,
) -> StartCommand:
    """Checks that the image has each program that `found` calls, and warns of doubtful ones.

    Returns `found`, or a replacement for a missing program: a script such as `start:prod`, or Node.js for
    nodemon. `built` says that build scripts ran. Raises InputError for a program that is not in the image,
    and for TypeScript that this Node.js cannot run.
    """
    places = start.module_folders(workspace, found)
    for folder in found.folders:
        _refuse_uninstalled(context.app, folder, found)
    for name in found.programs:
        if not _is_available(context, name, places):
            other = _find_replacement(context.log, workspace.app, found, name)
            return check_start(context, workspace, other, image, version=version, built=built)
    if calls_bun(found) and not image.bun:
        raise InputError(
            "the start command runs Bun, which is not in the image",
            why=f"{found.source}: {' '.join(found.command)}",
            fix=f"name the script in {START_SCRIPT}, so that the start command is known before the build",
        )
    file = _typescript_file(found.last or found.command)
    if file and not versions.allows(_STRIPS_TYPES, version):
        there = set(workspace.app.dependency_names(DEPENDENCIES))
        translator = next((name for name in _TRANSLATORS if name in there), "")
        if not translator or found.programs:
            raise InputError(
                f"Node.js {version} does not run TypeScript: {file}",
                why="it does from 22.18 on",
                fix="ask for a newer Node.js, or have a build script make JavaScript of it",
            )
        context.log.detail(f"{translator} runs {file}, since Node.js {version} does not run TypeScript")
        return replace(found, command=(translator, *found.command[1:]), programs=(translator,))
    if file and built and not found.programs:
        context.log.warning(
            f"{file} is started as it is, since the build made no JavaScript of it in a usual place; Node.js "
            "only strips its types (no enums, no decorators, imports with their endings); if the build made "
            'something else to start, name it: "scripts": {"start": "node dist/server.js"}'
        )
    watching = _WATCHING.intersection(found.programs) or _WATCHING_OPTIONS.intersection(
        {" ".join(found.command[:2])}
    )
    for program in watching:
        context.log.warning(f"{program} is for development: it starts again when files change")
    if "concurrently" in found.programs:
        context.log.warning(
            "concurrently runs several processes in one container, which goes on when one of them ends; a "
            "Procfile has a line for each, and each can run in a container of its own"
        )
    if found.after:
        context.log.warning(
            f"the script {found.after} is not run: the image has ended when the start command has"
        )
    return found


def _find_replacement(log: sdk.Log, project: Project, found: StartCommand, name: str) -> StartCommand:
    """The replacement for a command whose program is not in the image; raises InputError without one."""
    other = next((script for script in _STARTS if script in project.scripts), "")
    if other and not found.chosen:
        log.warning(
            f"the start script runs {name}, which is not in the image; {other} is started instead "
            f"({START_SCRIPT}={other} chooses it without this warning)"
        )
        return start.start_of_script(project, other)
    file = found.command[1] if found.command[:1] == ("nodemon",) and len(found.command) > 1 else ""
    if not file or file.startswith("-") or file.endswith(start.TYPESCRIPT):
        raise _missing_program_error(project, found, name)
    plain = ("node", *found.command[1:])
    log.warning(
        "nodemon restarts a program when files change; it is for development and not in the image, so the "
        f'program starts without it: "start": "{" ".join(plain)}"'
    )
    plainly = replace(found, command=plain, programs=("node",), last=plain)
    outputs.refuse_missing(project, plainly)
    return plainly


def _typescript_file(command: Sequence[str]) -> str:
    """The file that `node` runs, if it is TypeScript and no option translates it."""
    if command[:1] != ("node",) or any(word.startswith(_TRANSLATING) for word in command):
        return ""
    file = next((word for word in command[1:] if not word.startswith("-")), "")
    return file if file.endswith(start.TYPESCRIPT) else ""


def _is_available(context: sdk.BuildContext, name: str, places: Iterable[Path]) -> bool:
    if (
        name in ("node", *BUN_COMMANDS, *MANAGERS, *RUNNERS)
        or name in BUILTINS
        or not name.replace("-", "").replace("_", "").isalnum()
    ):
        return True
    folders = [*(place / "node_modules/.bin" for place in places), context.layers / "modules/bin"]
    if any((folder / name).exists() for folder in folders):
        return True
    import shutil

    # The run image may also have a program of the build image, or another buildpack may provide it.
    if shutil.which(name, path=context.env.get("PATH", "")) is None:
        return False
    if name not in _COMMON_PROGRAMS:
        context.log.warning(
            f"the start command runs {name}, which no module has: the build image has it, "
            "but if the run image has not, the container does not start"
        )
    return True


def _refuse_uninstalled(app: Path, folder: Path, found: StartCommand) -> None:
    """Raises InputError for the folder of another project if none of its dependencies is installed."""
    from . import plugnplay

    names = tuple(Project.read(folder).dependency_names(("dependencies",)))
    above = [place for place in (folder, *folder.parents) if place.is_relative_to(app)]
    if not names or any((app / file).is_file() for file in plugnplay.MAPS):
        return
    if any((place / "node_modules" / name).exists() for place in above for name in names):
        return
    path = folder.relative_to(app) if folder.is_relative_to(app) else folder
    raise InputError(
        f"the start command runs in {path}, whose dependencies nothing has installed",
        why=f"{found.source}: {' '.join(found.command)}\n{path}/package.json asks for {', '.join(names)}",
        fix=f"build that folder alone (BP_NODE_PROJECT_PATH={path}), name it in `workspaces` of "
        f"package.json, or have a build script install them: `npm ci --prefix {path}`",
    )


def _advice(name: str, package: str) -> str:
    """What to do if a start command runs a program of the devDependencies."""
    if name in _COMPILERS:
        return (
            f"have the build run {name}: name the script that does it `build`, or name it in "
            "BP_NODE_RUN_SCRIPTS; the start command must only run the result of the build"
        )
    if package in (*_TRANSLATORS, "ts-node-dev"):
        return (
            'have the build make JavaScript ("build": "tsc"), which "start": "node dist/server.js" runs, or '
            f"move {package} to the dependencies"
        )
    return f"move {package} to the dependencies if it is for production"


def _missing_program_error(project: Project, found: StartCommand, name: str) -> InputError:
    package = _PACKAGES.get(name, name)
    development = set(project.dependency_names(("devDependencies",)))
    other = next((script for script in _PRODUCTION if script in project.scripts), "")
    hint = f", or start another script: {START_SCRIPT}={other}" if other else ""
    if package in development or name in development:
        return InputError(
            f"the start command runs {name}, of the devDependencies, which are not in the image",
            why=f"{found.source}: {' '.join(found.command)}",
            fix=f"{_advice(name, package)}{hint}",
        )
    return InputError(
        f"the start command runs {name}, which is not in the image",
        why=f"{found.source}: {' '.join(found.command)}\nno dependency has a program of this name",
        fix=f"add the package that has it to the dependencies{hint}",
    )
