"""The package managers, one adapter each behind `port.Manager`; `choice` finds the application's.

Called by `buildpack`.
"""

from __future__ import annotations

from packhorse import sdk

from ..project import Project
from ..runtime import Runtime
from .choice import LOCKS, Choice
from .port import Manager

__all__ = ["LOCKS", "Choice", "Manager", "provide_manager"]


def provide_manager(
    context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice, *, runs_bun: Choice | None
) -> Manager:
    """Provides the chosen manager, in a layer of its own unless it comes with Node.js; logs which and why.

    `runs_bun` is the Bun that the image needs. It is also on PATH of scripts that another manager runs.
    """
    if runs_bun and choice.manager != "bun":
        from . import bun

        tool = bun.provide_bun(context, runs_bun, launch=True)
        runtime = tool.append_to(runtime)
        context.log.detail(f"Bun {tool.version} ({runs_bun.source})")
    manager, source = _create_manager(context, project, runtime, choice, launches_bun=runs_bun is not None)
    context.log.detail(f"{manager.name} {manager.version} ({source})")
    for lock in choice.unread_locks:
        context.log.warning(f"{lock} is not read, because {choice.source}; remove one of the two")
    return manager


def _create_manager(
    context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice, *, launches_bun: bool
) -> tuple[Manager, str]:
    """The manager, and the reason for it; imports only its adapter."""
    match choice.manager:
        case "npm":
            from .npm import Npm

            return Npm.of(context, project, runtime, choice), choice.source
        case "yarn":
            from . import yarn_release
            from .yarn import Berry, Yarn

            release = yarn_release.provide_yarn(context, project, runtime, choice)
            kind = Yarn if release.is_classic else Berry
            return kind(context, project, runtime, release.tool, choice.lock), release.source
        case "pnpm":
            from . import pnpm_release
            from .pnpm import Pnpm

            tool, source = pnpm_release.provide_pnpm(context, project, runtime, choice)
            return Pnpm(context, project, runtime, tool, choice.lock), source
        case "bun":
            from . import bun

            tool = bun.provide_bun(context, choice, launch=launches_bun)
            return bun.Bun(context, project, runtime, tool, choice.lock), choice.source
        case other:
            raise AssertionError(f"{other} is not in choice.MANAGERS")
