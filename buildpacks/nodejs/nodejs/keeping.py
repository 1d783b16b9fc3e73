"""Package managers in the image: for a start command that calls one, or because the user asks for it.

On the arrow plan → layers. Called by `nodejs.buildpack` at the end, when it is certain what is started. The
image has a copy of what the build ran, in the layer `package-manager`: the build's own layers have more than
that, and stay the same whether an image needs a manager or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError

from . import update
from .managers.port import Manager
from .start import Start

SETTING = "BP_NODE_KEEP_NPM"
_LAYER = "package-manager"
_COMMANDS = {"npm": ("npm", "npx"), "yarn": ("yarn", "yarnpkg"), "pnpm": ("pnpm", "pnpx")}
_LICENCES = {"npm": "Artistic-2.0", "yarn": "BSD-2-Clause", "pnpm": "MIT"}
# An image neither looks for newer managers nor installs anything before it runs a script.
_VARIABLES = {
    "npm_config_update_notifier": "false",
    "npm_config_manage_package_manager_versions": "false",
    "npm_config_verify_deps_before_run": "false",
    "pnpm_config_pm_on_fail": "ignore",
    "pnpm_config_update_notifier": "false",
    "pnpm_config_verify_deps_before_run": "false",
    "YARN_ENABLE_TELEMETRY": "0",
    "YARN_IGNORE_PATH": "1",
}
_PREFIXES = {"npm": ("npm_config_update",), "pnpm": ("npm_", "pnpm_"), "yarn": ("YARN_",)}


def wanted(env: Mapping[str, str], starts: Iterable[Start], manager: str) -> dict[str, str]:
    """The package managers that the image needs, each with the reason; `manager` is the application's."""
    found: dict[str, str] = {}
    if update.switch(env, SETTING) is True:
        found = {name: SETTING for name in ("npm", manager) if name in _COMMANDS}
    for start in starts:
        for name in start.managers:
            found.setdefault(name, f"{start.source} calls it")
    return found


def provide(context: sdk.BuildContext, manager: Manager, reasons: Mapping[str, str]) -> None:
    """Makes or keeps the layer with the managers that have `reasons`; says these, and what they take.

    Raises InputError for one that the build does not have: the application is another's.
    """
    if not reasons:
        return
    programs = {name: _program(context, manager, name) for name in reasons}
    key = {"architecture": context.target.arch}
    for name, program in programs.items():
        if program is None:
            raise _is_another(name, reasons[name], manager)
        key[name] = manager.version if name == manager.command else _version(_home(program))
    layer = context.layer(_LAYER, key=key, launch=True)
    for name, program in programs.items():
        assert program is not None
        home = _home(program)
        size = sum(path.lstat().st_size for path in home.rglob("*") if not path.is_dir())
        context.log.detail(f"{name} {key[name]} is in the image, {size / 1e6:.0f} MB ({reasons[name]})")
        if not layer.kept:
            _copy(manager, name, home, layer)
    components = (_component(name, key[name]) for name in programs)
    context.write_sbom(_LAYER, sdk.Bill(tuple(components)))


def _program(context: sdk.BuildContext, manager: Manager, name: str) -> Path | None:
    """The file that a command of the build's layers runs; None where only the build image may have it."""
    import shutil

    found = shutil.which(name, path=manager.env["PATH"])
    path = Path(os.path.realpath(found)) if found else None
    return path if path and path.is_relative_to(context.layers.resolve()) else None


def _home(program: Path) -> Path:
    """The directory of the package that has the program; a release that comes with the source is one file."""
    above = program.parents[:2]
    return next((folder for folder in above if (folder / "package.json").is_file()), program.parent)


def _version(home: Path) -> str:
    import json

    return str(json.loads((home / "package.json").read_bytes())["version"])


def _copy(manager: Manager, name: str, home: Path, layer: sdk.Layer) -> None:
    """Copies the package and makes links to its commands."""
    import shutil

    target = layer.path / "lib/node_modules" / name
    shutil.copytree(home, target, symlinks=True)
    (layer.path / "bin").mkdir(exist_ok=True)
    for command in _COMMANDS[name]:
        if found := shutil.which(command, path=manager.env["PATH"]):
            inside = Path(os.path.realpath(found)).relative_to(home)
            (layer.path / "bin" / command).symlink_to(Path("../lib/node_modules", name, inside))
    for variable, value in _VARIABLES.items():
        if variable.startswith(_PREFIXES[name]):
            layer.set_env(variable, value, action="default", phase="launch")


def _component(name: str, version: str) -> sdk.Component:
    purl = sdk.purl("npm", name, version)
    return sdk.Component(name, version, purl, licence=_LICENCES[name], kind="application")


def _is_another(name: str, reason: str, manager: Manager) -> InputError:
    return InputError(
        f"the image is to have {name}, but the package manager of the application is {manager.name}",
        why=reason,
        fix=f"call {manager.command} instead, or name {name} in package.json packageManager",
    )
