"""Whether node_modules that lie in the source are used, or what the lock says is installed in their place.

On the arrow plan → layers. Called by `nodejs.modules`. A working copy mostly has node_modules, with tools for
development and native parts of another machine: they are not what is to be in an image.
"""

from __future__ import annotations

from packhorse import sdk
from packhorse.errors import InputError

from . import update
from .removal import delete, refusals
from .workspace import Workspace

SETTING = "BP_NODE_VENDORED"
_MODULES = "node_modules"


def settle(context: sdk.BuildContext, workspace: Workspace, lock: str) -> bool:
    """Whether the source's node_modules are used as they are; where they are not, removes them.

    BP_NODE_VENDORED decides; else they are used where there is no `lock`, unless .gitignore names them: then
    they are no part of the source. Raises InputError for a setting that cannot be followed.
    """
    wanted = update.switch(context.env, SETTING)
    if not workspace.root.vendored:
        if wanted:
            raise InputError(
                f"{SETTING} is set, and the source has no {_MODULES}",
                why=f"there is no package in {workspace.root.directory / _MODULES}",
                fix=f"leave {SETTING} out to have them installed, or put {_MODULES} into the source",
            )
    elif wanted or (wanted is None and not lock and not _is_ignored(workspace)):
        return True
    else:
        reason = f"{lock} says what to install" if lock else "it is not part of the source (.gitignore)"
        reason = f"{SETTING} is off" if wanted is False else reason
        uses = "" if wanted is False else f"; {SETTING}=1 uses it"
        context.log.detail(f"{_MODULES} of the source is left out: {reason}{uses}")
    for path in ("", *workspace.members):
        modules = workspace.root.directory / path / _MODULES
        if modules.is_dir() and not modules.is_symlink():
            with refusals(f"{_MODULES} of the source"):
                delete(modules)
    return False


def _is_ignored(workspace: Workspace) -> bool:
    """Whether .gitignore of the project names node_modules."""
    path = workspace.root.directory / ".gitignore"
    if not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return any(line.strip().removeprefix("**").strip("/") == _MODULES for line in lines)
