"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine: `main.py` hands `build` to the SDK, and `detection`'s function. It uses the specification's
interface only, so it runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

from packhorse import sdk

from . import (
    bill,
    credentials,
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
from .releases import Releases
from .request import Request, lines_named
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
    from_root = nx.start(workspace)
    found = from_root or start.find(project, context.env, generated=bool(scripts))

    image = Engines.of(context, project, found, said)
    node = runtime.provide(context, request, releases, launch=image.node)
    choice = managers.Choice.of(workspace.root)
    runs_bun = managers.Choice.of_bun(project) if image.bun else None
    manager = managers.provide(context, workspace.root, node, choice, runs_bun=runs_bun)
    image.announce(context.log)
    tasks.announce(context.log, scripts, chosen)
    steps = tasks.plan(workspace, scripts)
    installation = modules.Installation(context, workspace, node, manager, steps)
    slices = installation.provide()
    credentials.leave_out(context)

    found = from_root or outputs.settle(context, project, found, dev=installation.keeps_dev)
    if found:
        found = programs.check(context, workspace, found, image, version=node.version)
    launch.set_up(context, workspace, found)
    bill.write(context, workspace, node, choice.lock, modules=installation.whole, bun=bool(image.bun))
    directory = "" if from_root or project.directory == context.app else str(project.directory)
    processes = (sdk.Process("web", found.command, default=True, working_dir=directory),) if found else ()
    return sdk.BuildResult(sdk.Launch(processes, slices=slices))
