"""What an installation leaves in node_modules that no program needs and that differs by machine.

Called by `nodejs.modules` before a layer is closed, since the same source must give the same digest
everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from .removal import delete

# The managers' own records: they have times and the registry's host, and what a later `yarn run` needs.
RECORDS = (
    ".package-lock.json",
    ".yarn-integrity",
    ".yarn-state.yml",
    ".package-map.json",
    ".modules.yaml",
    ".pnpm/lock.yaml",
    ".pnpm-workspace-state*.json",
    ".pnpm-task-run-state*",
)
# Caches of tools that ran.
_CACHES = (".cache",)
# Where links stay that lead to what was taken away.
_WITH_LEFTOVERS = (".bin", ".pnpm/node_modules", ".pnpm/node_modules/.bin", ".bun/node_modules")
# node-gyp's makefiles and settings (they have npm's configuration and paths); build/Release stays.
_GYP_SIGN = "config.gypi"
_GYP_FILES = ("config.gypi", "Makefile", "binding.Makefile")
_GYP_FOLDERS = ("obj.target", "obj", ".deps")


def remove(modules: Path, *, records: bool = True) -> None:
    """Cleans one node_modules directory and all below it; `records` are those of package managers."""
    for pattern in (*_CACHES, *(RECORDS if records else ())):
        for path in modules.glob(pattern):
            delete(path)
    for name in _WITH_LEFTOVERS:
        remove_dangling(modules / name)
    for folder, subfolders, files in os.walk(modules):
        subfolders.sort()
        if _GYP_SIGN in files:
            remove_gyp(Path(folder))


def remove_gyp(build: Path) -> None:
    """Cleans the folder `build` that node-gyp has made, if it has."""
    if build.name != "build" or not (build / _GYP_SIGN).is_file():
        return
    for path in (*(build / name for name in _GYP_FILES), *build.glob("*.mk")):
        delete(path)
    for configuration in ("Release", "Debug"):
        for name in _GYP_FOLDERS:
            delete(build / configuration / name)


def remove_dangling(folder: Path) -> None:
    """Removes the links of a folder, and of its scopes (`@types`), that lead nowhere."""
    for path in (*folder.glob("*"), *folder.glob("@*/*")):
        if path.is_symlink() and not path.exists():
            path.unlink()
