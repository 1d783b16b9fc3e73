"""The Node.js buildpack: a source with package.json → Node.js, the modules, a start command.

The spine. `main.py` gives `build` to the SDK, and `detect` of `detection`. It uses only the specification's
interface, so it runs under any lifecycle with Buildpack API 0.12.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse import sdk

from . import (
    build_scripts,
    credentials,
    managers,
    modules,
    outputs,
    processes,
    programs,
    runtime,
    sbom,
    start,
    versions,
)
from .processes import WEB, Processes
from .programs import Engines
from .start import StartCommand
from .versions import Releases, Request, lts_names
from .workspace import PROJECT_SETTING, Workspace


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    """Provides Node.js and the modules, runs the build scripts, and returns the processes."""
    context = credentials.mask_log(context)
    with credentials.mask_errors(), credentials.link_bindings(context):
        return _build(context)


def _build(context: sdk.BuildContext) -> sdk.BuildResult:
    workspace = Workspace.read(context.app, context.env.get(PROJECT_SETTING, ""))
    project = workspace.app
    said = versions.read_requested_versions(project, context.env, above=workspace.root)
    releases = runtime.provide_releases(context, Releases.load(), lts_names(said))
    request = Request.of(said, releases)
    chosen = context.env.get(build_scripts.SCRIPTS_SETTING)
    scripts = build_scripts.choose_scripts(workspace, chosen)
    built_scripts = build_scripts.completed_scripts(workspace, scripts)
    declared = Processes.read(context, workspace, built_scripts)
    from_root = None if declared.web else build_scripts.nx_start(workspace)
    required = not declared.starts
    found = declared.web or from_root
    found = found or start.find_start(
        project, context.env, generated=bool(scripts), required=required, built=built_scripts
    )

    if required and outputs.depends_on_build(project, found, dev=context.exec_env != "production"):
        outputs.refuse_unstartable(project, found, scripts, context.env)

    image = Engines.of(context, project, found, said, tuple(declared.others.values()))
    node = runtime.provide_node(context, request, releases, launch=image.node)
    choice = managers.Choice.of(workspace.root)
    runs_bun = managers.Choice.of_bun(project, workspace.root) if image.bun else None
    manager = managers.provide_manager(context, workspace.root, node, choice, runs_bun=runs_bun)
    image.log_choice(context.log)
    build_scripts.log_scripts(context.log, workspace, scripts, chosen)
    steps = build_scripts.plan_tasks(workspace, scripts)
    installation = modules.Installation(context, workspace, node, manager, steps, choice.lock)
    slices = installation.provide()
    credentials.remove_credentials(context)

    if declared.web:
        outputs.refuse_missing(declared.project, declared.web)
    elif not from_root:
        found = outputs.choose_start(
            context, project, found, dev=installation.keeps_dev, built=bool(scripts), required=required
        )
    if found:
        found = programs.check_start(
            context, workspace, found, image, version=node.version, built=bool(scripts)
        )
    others = declared.check_others(context, workspace, image, node.version)
    starts = {**({WEB: found} if found else {}), **others}
    processes.provide_start_layer(context, workspace, starts)
    programs.provide_managers(
        context, manager, programs.managers_needed(context.env, starts.values(), choice.manager)
    )
    sbom.write_sboms(
        context, workspace, node, choice.lock, modules=installation.complete_layer, bun=bool(image.bun)
    )
    web_folder = workspace.root.directory if from_root else project.directory
    folders = {WEB: web_folder, **dict.fromkeys(declared.starts, declared.project.directory)}
    return sdk.BuildResult(sdk.Launch(_processes(context.app, starts, folders), slices=slices))


def _processes(
    app: Path, starts: Mapping[str, StartCommand], folders: Mapping[str, Path]
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
