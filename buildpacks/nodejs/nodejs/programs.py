"""Whether the image can run what the start command names: programs of modules, and TypeScript.

On the arrow plan → layers. Called by `nodejs.buildpack` when the modules are there. What is missing would be
told by a container that does not start.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import replace

from . import engines, outputs, ranges, start
from .call import MANAGERS
from .engines import Engines
from .project import DEPENDENCIES, Project
from .script import BUILTINS, RUNNERS
from .start import START_SCRIPT, Start
from .workspace import Workspace

# Programs that are not called as the package that has them.
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
# Which run TypeScript where Node.js does not.
_TRANSLATORS = ("tsx", "ts-node")
_TRANSLATING = ("-r", "--require", "--import", "--loader", "--experimental")
# What an image has that has sh, which is told by itself.
_BESIDE_SH = {
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


def check(
    context: sdk.BuildContext,
    workspace: Workspace,
    found: Start,
    image: Engines,
    *,
    version: str,
    built: bool = False,
) -> Start:
    """Looks for each program that `found` calls in the modules, and warns of what is odd; returns what runs.

    That is `found`, or what stands in for a program that is not there: a script by the name of `start:prod`,
    Node.js for nodemon. `built` says that build scripts ran.

    Raises InputError for a program that is not in the image, and for TypeScript that this Node.js cannot run.
    """
    places = start.places(workspace, found)
    for folder in found.folders:
        _refuse_uninstalled(context.app, folder, found)
    for name in found.programs:
        if not _is_there(context, name, places):
            other = _stand_in(context.log, workspace.app, found, name)
            return check(context, workspace, other, image, version=version, built=built)
    if engines.calls_bun(found) and not image.bun:
        raise InputError(
            "the start command runs Bun, which is not in the image",
            why=f"{found.source}: {' '.join(found.command)}",
            fix=f"name the script in {START_SCRIPT}: what is started is known then before the build",
        )
    file = _typescript(found.last or found.command)
    if file and not ranges.allows(_STRIPS_TYPES, version):
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


def _stand_in(log: sdk.Log, project: Project, found: Start, name: str) -> Start:
    """What is started instead where a program is not in the image; raises InputError where nothing can be."""
    other = next((script for script in _STARTS if script in project.scripts), "")
    if other and not found.chosen:
        log.warning(
            f"the start script runs {name}, which is not in the image; {other} is started instead "
            f"({START_SCRIPT}={other} chooses it without this warning)"
        )
        return start.script_of(project, other)
    file = found.command[1] if found.command[:1] == ("nodemon",) and len(found.command) > 1 else ""
    if not file or file.startswith("-") or file.endswith(start.TYPESCRIPT):
        raise _missing(project, found, name)
    plain = ("node", *found.command[1:])
    log.warning(
        "nodemon is for development and not in the image: it starts again when files change; what it runs is "
        f'started instead: "start": "{" ".join(plain)}"'
    )
    plainly = replace(found, command=plain, programs=("node",), last=plain)
    outputs.refuse_missing(project, plainly)
    return plainly


def _typescript(command: Sequence[str]) -> str:
    """The file that `node` runs, if it is TypeScript and no option has something translate it."""
    if command[:1] != ("node",) or any(word.startswith(_TRANSLATING) for word in command):
        return ""
    file = next((word for word in command[1:] if not word.startswith("-")), "")
    return file if file.endswith(start.TYPESCRIPT) else ""


def _is_there(context: sdk.BuildContext, name: str, places: Iterable[Path]) -> bool:
    if (
        name in ("node", *engines.BUN, *MANAGERS, *RUNNERS)
        or name in BUILTINS
        or not name.replace("-", "").replace("_", "").isalnum()
    ):
        return True
    folders = [*(place / "node_modules/.bin" for place in places), context.layers / "modules/bin"]
    if any((folder / name).exists() for folder in folders):
        return True
    import shutil

    # A program of the build image may be in the run image, too, or of another buildpack.
    if shutil.which(name, path=context.env.get("PATH", "")) is None:
        return False
    if name not in _BESIDE_SH:
        context.log.warning(
            f"the start command runs {name}, which no module has: the build image has it, "
            "but if the run image has not, the container does not start"
        )
    return True


def _refuse_uninstalled(app: Path, folder: Path, found: Start) -> None:
    """Raises InputError for another project's folder of whose dependencies none is there."""
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
    """What to do about a program of the devDependencies in a start command."""
    if name in _COMPILERS:
        return (
            f"have the build run {name}: name the script that does it `build`, or name it in "
            "BP_NODE_RUN_SCRIPTS; the start command is to run only what the build made"
        )
    if package in (*_TRANSLATORS, "ts-node-dev"):
        return (
            'have the build make JavaScript ("build": "tsc"), which "start": "node dist/server.js" runs, or '
            f"move {package} to the dependencies"
        )
    return f"move {package} to the dependencies if it is for production"


def _missing(project: Project, found: Start, name: str) -> InputError:
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
