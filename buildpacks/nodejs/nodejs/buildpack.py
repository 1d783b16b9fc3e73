"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine: `main.py` hands these two functions to the SDK. It uses the specification's interface only, so it
runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

import shlex

from packhorse import sdk

from . import credentials, launch, managers, modules, nx, runtime, schedule, sources, start, tasks
from .releases import Releases
from .request import Request, lines_named
from .workspace import SETTING, Workspace

_ENTRIES = ("package.json", "server.js", "app.js", "index.js")


def detect(context: sdk.DetectContext) -> sdk.Pass | sdk.Fail:
    """Takes an application that has package.json or a usual entry file."""
    there = {path.name for path in context.app.iterdir()}
    if not there.intersection(_ENTRIES):
        return sdk.Fail(f"there is no {', '.join(_ENTRIES)}")
    return sdk.Pass(sdk.BuildPlan(provides=("node",), requires=(sdk.Require("node"),)))


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    """Provides Node.js and the modules, runs the build scripts and names the web process."""
    workspace = Workspace.read(context.app, context.env.get(SETTING, ""))
    project = workspace.app
    said = sources.read(project, context.env, above=workspace.root)
    releases = schedule.provide(context, Releases.load(), lines_named(said))
    request = Request.of(said, releases)
    scripts = tasks.scripts(workspace, context.env.get("BP_NODE_RUN_SCRIPTS"))
    from_root = nx.start(workspace)
    found = from_root or start.find(project, generated=bool(scripts))

    node = runtime.provide(context, request, releases)
    manager = managers.provide(context, workspace.root, node, managers.Choice.of(workspace.root))
    steps = tasks.plan(workspace, scripts)
    slices = modules.Installation(context, workspace, node, manager, steps).provide()
    credentials.leave_out(context, workspace)
    launch.set_up(context, workspace)

    processes: tuple[sdk.Process, ...] = ()
    if found:
        is_above = from_root or project.directory == context.app
        directory = "" if is_above else str(project.directory)
        processes = (sdk.Process("web", found.command, default=True, working_dir=directory),)
        context.log.detail(f"web: {shlex.join(found.command)} ({found.source})")
        if not found.gets_signals:
            context.log.warning("the start script keeps a shell, which does not pass SIGTERM on to Node.js")
    return sdk.BuildResult(sdk.Launch(processes, slices=slices))
