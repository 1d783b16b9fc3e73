"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine: `main.py` hands these two functions to the SDK. It uses the specification's interface only, so it
runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

import shlex

from packhorse import sdk

from . import credentials, managers, modules, runtime, start, tasks
from .releases import Releases
from .request import Request
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
    releases = Releases.load()
    request = Request.of(project, context.env, releases, above=workspace.root)
    scripts = tasks.scripts(workspace, context.env.get("BP_NODE_RUN_SCRIPTS"))
    found = start.find(project, generated=bool(scripts))

    node = runtime.provide(context, request, releases)
    manager = managers.provide(context, workspace.root, node, managers.Choice.of(workspace.root))
    steps = tasks.plan(workspace, scripts)
    slices = modules.Installation(context, workspace, node, manager, steps).provide()
    credentials.leave_out(context, workspace)
    _set_up_launch(context, workspace)

    processes: tuple[sdk.Process, ...] = ()
    if found:
        directory = "" if project.directory == context.app else str(project.directory)
        processes = (sdk.Process("web", found.command, default=True, working_dir=directory),)
        context.log.detail(f"web: {shlex.join(found.command)} ({found.source})")
        if not found.gets_signals:
            context.log.warning("the start script keeps a shell, which does not pass SIGTERM on to Node.js")
    return sdk.BuildResult(sdk.Launch(processes, slices=slices))


def _set_up_launch(context: sdk.BuildContext, workspace: Workspace) -> None:
    """Layer `start`: the variables that `npm start` would set, and NODE_ENV unless the user sets it."""
    project = workspace.app
    variables = {
        # What the user set for the build holds for launch too; else the execution environment's name.
        "NODE_ENV": context.env.get("NODE_ENV") or context.exec_env,
        "npm_package_name": project.name,
        "npm_package_version": project.version,
    }
    places = dict.fromkeys((project.directory, workspace.root.directory))
    commands = ":".join(str(place / "node_modules/.bin") for place in places)
    layer = context.layer("start", key={**variables, "PATH": commands}, launch=True)
    if layer.kept:
        return
    for name, value in variables.items():
        if value:
            layer.set_env(name, value, action="default", phase="launch")
    layer.set_env("PATH", commands, action="prepend", delimiter=":", phase="launch")
