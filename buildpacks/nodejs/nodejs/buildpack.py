"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine: `main.py` hands `build` to the SDK, and `detection`'s function. It uses the specification's
interface only, so it runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse import sdk

from . import (
    bill,
    credentials,
    keeping,
    launch,
    managers,
    modules,
    nx,
    outputs,
    programs,
    runtime,
    schedule,
    sources,
    start,
    tasks,
)
from .engines import Engines
from .procfile import WEB, Processes
from .releases import Releases
from .request import Request, lines_named
from .start import Start
from .workspace import SETTING, Workspace


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    """Provides Node.js and the modules, runs the build scripts and names the web process."""
    context = credentials.quiet(context)
    with credentials.hidden(), credentials.bound(context):
        return _build(context)


def _build(context: sdk.BuildContext) -> sdk.BuildResult:
    workspace = Workspace.read(context.app, context.env.get(SETTING, ""))
    project = workspace.app
    said = sources.read(project, context.env, above=workspace.root)
    releases = schedule.provide(context, Releases.load(), lines_named(said))
    request = Request.of(said, releases)
    chosen = context.env.get(tasks.SETTING)
    scripts = tasks.scripts(workspace, chosen)
    built_scripts = tasks.covered(workspace, scripts)
    declared = Processes.read(context, workspace, built_scripts)
    from_root = None if declared.web else nx.start(workspace)
    required = not declared.starts
    found = declared.web or from_root
    found = found or start.find(
        project, context.env, generated=bool(scripts), required=required, built=built_scripts
    )

    if required and outputs.may_give_way(project, found, dev=context.exec_env != "production"):
        from . import forecast

        forecast.refuse(project, found, scripts, context.env)

    image = Engines.of(context, project, found, said, tuple(declared.others.values()))
    node = runtime.provide(context, request, releases, launch=image.node)
    choice = managers.Choice.of(workspace.root)
    runs_bun = managers.Choice.of_bun(project, workspace.root) if image.bun else None
    manager = managers.provide(context, workspace.root, node, choice, runs_bun=runs_bun)
    image.announce(context.log)
    tasks.announce(context.log, workspace, scripts, chosen)
    steps = tasks.plan(workspace, scripts)
    installation = modules.Installation(context, workspace, node, manager, steps, choice.lock)
    slices = installation.provide()
    credentials.leave_out(context)

    if declared.web:
        outputs.refuse_missing(declared.project, declared.web)
    elif not from_root:
        found = outputs.settle(
            context, project, found, dev=installation.keeps_dev, built=bool(scripts), required=required
        )
    if found:
        found = programs.check(context, workspace, found, image, version=node.version, built=bool(scripts))
    others = declared.check_others(context, workspace, image, node.version)
    starts = {**({WEB: found} if found else {}), **others}
    launch.set_up(context, workspace, starts)
    keeping.provide(context, manager, keeping.wanted(context.env, starts.values(), choice.manager))
    bill.write(context, workspace, node, choice.lock, modules=installation.whole, bun=bool(image.bun))
    web_folder = workspace.root.directory if from_root else project.directory
    folders = {WEB: web_folder, **dict.fromkeys(declared.starts, declared.project.directory)}
    return sdk.BuildResult(sdk.Launch(_processes(context.app, starts, folders), slices=slices))


def _processes(
    app: Path, starts: Mapping[str, Start], folders: Mapping[str, Path]
) -> tuple[sdk.Process, ...]:
    """The processes of the image, each in its folder; `web` is the default, else the only one."""
    return tuple(
        sdk.Process(
            type,
            started.command,
            default=type == WEB or len(starts) == 1,
            working_dir="" if folders[type] == app else str(folders[type]),
        )
        for type, started in starts.items()
    )
