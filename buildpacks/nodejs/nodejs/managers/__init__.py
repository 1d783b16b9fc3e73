"""The package managers: one file each, all of them behind `port.Manager`; `choice` finds an application's.

Called by `nodejs.buildpack`.
"""

from __future__ import annotations

from packhorse import sdk

from ..project import Project
from ..runtime import Runtime
from . import bun, pnpmrelease, yarnrelease
from .berry import Berry
from .choice import LOCKS, Choice
from .npm import Npm
from .pnpm import Pnpm
from .port import Manager
from .yarn import Yarn

__all__ = ["LOCKS", "Choice", "Manager", "provide"]


def provide(
    context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice, *, runs_bun: Choice | None
) -> Manager:
    """The manager that was chosen, in a layer of its own unless it comes with Node.js; says which and why.

    `runs_bun` is the Bun that the image is to have. It is on PATH of scripts for another manager as well.
    """
    manager: Manager
    source = choice.source
    if runs_bun and choice.manager != "bun":
        tool = bun.provide(context, runs_bun, launch=True)
        runtime = tool.beside(runtime)
        context.log.detail(f"Bun {tool.version} ({runs_bun.source})")
    match choice.manager:
        case "npm":
            manager = Npm.of(context, project, runtime, choice)
        case "yarn":
            release = yarnrelease.provide(context, project, runtime, choice)
            source, kind = release.source, Yarn if release.is_classic else Berry
            manager = kind(context, project, runtime, release.tool, choice.lock)
        case "pnpm":
            tool, source = pnpmrelease.provide(context, project, runtime, choice)
            manager = Pnpm(context, project, runtime, tool, choice.lock)
        case "bun":
            tool = bun.provide(context, choice, launch=runs_bun is not None)
            manager = bun.Bun(context, project, runtime, tool, choice.lock)
        case other:
            raise AssertionError(f"{other} is not in choice.MANAGERS")
    context.log.detail(f"{manager.name} {manager.version} ({source})")
    for lock in choice.unread:
        context.log.warning(f"{lock} is not read, since {choice.source}; remove one of the two")
    return manager
