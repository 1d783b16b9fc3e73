"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine: `main.py` hands these two functions to the SDK. It uses the specification's interface only, so it
runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

import shlex

from packhorse import sdk

from . import managers, modules, runtime, start
from .project import Project
from .releases import Releases
from .request import Request

_ENTRIES = ("package.json", "server.js", "app.js", "index.js")


def detect(context: sdk.DetectContext) -> sdk.Pass | sdk.Fail:
    """Takes an application that has package.json or a usual entry file."""
    there = {path.name for path in context.app.iterdir()}
    if not there.intersection(_ENTRIES):
        return sdk.Fail(f"there is no {', '.join(_ENTRIES)}")
    return sdk.Pass(sdk.BuildPlan(provides=("node",), requires=(sdk.Require("node"),)))


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    """Provides Node.js and the modules, runs the build scripts and names the web process."""
    project = Project.read(context.app)
    releases = Releases.load()
    request = Request.of(project, context.env, releases)
    scripts = modules.build_scripts(project, context.env.get("BP_NODE_RUN_SCRIPTS"))
    found = start.find(project, generated=bool(scripts))

    node = runtime.provide(context, request, releases)
    manager = managers.provide(context, project, node, managers.Choice.of(project))
    slices = modules.Installation(context, project, node, manager, scripts).provide()
    _set_up_launch(context, project)

    processes: tuple[sdk.Process, ...] = ()
    if found:
        processes = (sdk.Process("web", found.command, default=True),)
        context.log.detail(f"web: {shlex.join(found.command)} ({found.source})")
        if not found.gets_signals:
            context.log.warning("the start script keeps a shell, which does not pass SIGTERM on to Node.js")
    return sdk.BuildResult(sdk.Launch(processes, slices=slices))


def _set_up_launch(context: sdk.BuildContext, project: Project) -> None:
    """Layer `start`: the variables that `npm start` would set, and NODE_ENV unless the user sets it."""
    variables = {
        # What the user set for the build holds for launch too; else the execution environment's name.
        "NODE_ENV": context.env.get("NODE_ENV") or context.exec_env,
        "npm_package_name": project.name,
        "npm_package_version": project.version,
    }
    commands = str(context.app / "node_modules/.bin")
    layer = context.layer("start", key={**variables, "PATH": commands}, launch=True)
    if layer.kept:
        return
    for name, value in variables.items():
        if value:
            layer.set_env(name, value, action="default", phase="launch")
    layer.set_env("PATH", commands, action="prepend", delimiter=":", phase="launch")
