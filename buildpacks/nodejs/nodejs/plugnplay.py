"""Plug'n'Play: packages stay in their archives, and `.pnp.cjs` in the application tells Node.js where.

Called by `modules` and `managers.yarn`. A layer has the archives, the packages that have to be unpacked, and
a copy of the application's `.pnp.cjs`, which names them by their paths. At launch the layer makes Node.js
load that file.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError

from . import credentials, node_modules
from .node_modules import delete

CACHE, UNPLUGGED = "cache", "unplugged"
# Not above the packages: a map there would have them belong to two applications.
_MAP_FOLDER = "map"
# Yarn 2 has another name for the map of an application that is not of ES modules.
MAPS = (".pnp.cjs", ".pnp.js")
_LOADER, _DATA = ".pnp.loader.mjs", ".pnp.data.json"
_FILES = (*MAPS, _LOADER, _DATA)
_SHIM = '#!/bin/sh\nexec node {path} "$@"\n'


def save_map(application: Path, layer: sdk.Layer, *, made: Sequence[str] = ()) -> None:
    """Copies the map into `layer`, removes archives that it does not name, and sets variables for launch.

    A layer for the build also gets the other files that were `made` in the application. Archives of unpacked
    and of patched packages are among those that the map does not name.
    """
    text = ""
    (layer.path / _MAP_FOLDER).mkdir()
    for name in _FILES:
        if (application / name).is_file():
            # The map has the dependencies' URLs from the manifests.
            map_ = credentials.strip_url_credentials(
                (application / name).read_text(encoding="utf-8", errors="surrogateescape")
            )
            (layer.path / _MAP_FOLDER / name).write_text(map_, encoding="utf-8", errors="surrogateescape")
            text += map_
    for name in () if layer.types.launch else made:
        shutil.copyfile(application / name, layer.path / _MAP_FOLDER / name)
    for path in (layer.path / CACHE).glob("*"):
        if path.name not in text:
            path.unlink()
    node_modules.clean_modules(layer.path / UNPLUGGED)
    if layer.types.launch:
        layer.set_env("NODE_OPTIONS", _options(application), action="prepend", delimiter=" ", phase="launch")


def install_map(application: Path, layer: Path, *, made: Sequence[str] = ()) -> None:
    """Copies the map of `layer`, and the files `made` with it, into the application."""
    remove_map(application)
    for name in (*_FILES, *made):
        if (layer / _MAP_FOLDER / name).is_file():
            shutil.copyfile(layer / _MAP_FOLDER / name, application / name)


def remove_map(application: Path) -> None:
    """Removes the map from the application."""
    for name in _FILES:
        (application / name).unlink(missing_ok=True)


def copy_changes(written: Iterable[str], source: Path, target: Path) -> None:
    """Copies the changes that build scripts made in unpacked packages of the layer `source` to `target`.

    Skips packages that `target` does not have: only a build needs them.
    """
    for path in written:
        before, after = source / UNPLUGGED / path, target / UNPLUGGED / path
        if not (target / UNPLUGGED / PurePosixPath(path).parts[0]).is_dir():
            continue
        delete(after)
        if os.path.lexists(before):
            after.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(before, after, follow_symlinks=False)


def write_commands(layer: Path, commands: Mapping[str, str]) -> None:
    """Writes a program into `layer`/bin, which is on PATH at launch, for each command."""
    for name, path in commands.items():
        program = layer / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(_SHIM.format(path=shlex.quote(path)))
        program.chmod(0o755)


def _options(application: Path) -> str:
    name = next((name for name in MAPS if (application / name).is_file()), "")
    if not name:
        raise InputError(
            f"Yarn made no map of the packages ({MAPS[0]})",
            why="without nodeLinker in .yarnrc.yml, Yarn should use Plug'n'Play",
            fix="set nodeLinker in .yarnrc.yml of the source",
        )
    options = f"--require {application / name}"
    if (application / _LOADER).is_file():
        options += f" --experimental-loader {(application / _LOADER).as_uri()}"
    return options
