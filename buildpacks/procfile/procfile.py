"""Makes each line of a Procfile a process of the image. Called by `main`.

The lifecycle joins the processes of all buildpacks and lets a later buildpack replace a process of an earlier
one. So a group that ends with this buildpack also has the processes of the others, and the Procfile's win.
"""

from __future__ import annotations

from packhorse import sdk
from packhorse.sdk.procfile import NAME

WEB = "web"

_SHELL = ("bash", "-c")
"""Runs each command. bash replaces itself by a single program, which then gets the container's signals."""


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    """Names the processes; the default is `web`, or the only process that there is."""
    found = sdk.Procfile.read(context.app / NAME)
    if found is None:  # an earlier buildpack of the group has removed it
        context.log.warning(f"the {NAME} was there in detection and has gone: it names no process")
        return sdk.BuildResult()
    for warning in found.warnings:
        context.log.warning(f"{NAME}: {warning}")
    default = WEB if WEB in found.commands or len(found.commands) != 1 else next(iter(found.commands))
    processes = []
    for type, command in found.commands.items():
        context.log.detail(f"{type}: {command}" + (" (the default)" if type == default else ""))
        # Arguments of the user replace the line. After it they would be lost: `bash -c` takes a single one.
        processes.append(sdk.Process(type, _SHELL, (command,), default=type == default))
    return sdk.BuildResult(sdk.Launch(tuple(processes)))
