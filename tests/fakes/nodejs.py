"""Small Node.js applications on a workbench: written, built with the real package managers, looked at."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fakes.installation import REPOSITORY
from packhorse.builder.package import stage_directory
from packhorse.sdk.testing import Outcome, Workbench

NOWHERE = {
    "npm_config_registry": "http://127.0.0.1:9/",
    "npm_config_fetch_retries": "0",
    "YARN_NPM_REGISTRY_SERVER": "http://127.0.0.1:9/",
}
"""The variables of who has no network."""


def staged(directory: Path) -> Path:
    """The Node.js buildpack as packhorse carries it, in the new directory `nodejs`."""
    target = directory / "nodejs"
    stage_directory(REPOSITORY / "buildpacks/nodejs", target)
    return target


def laid_out(buildpack: Path, root: Path, **env: str) -> Workbench:
    """A workbench in `root` on which nothing was built before. After a build that failed nothing is undone:
    there are a hundred builds, and Node.js has five thousand files.
    """
    (root / "source").mkdir()
    (root / "scratch").mkdir()
    return Workbench(buildpack, root / "source", root / "scratch", env, undo=False)


def take_layers(workbench: Workbench, first: Workbench, pattern: str = "*") -> None:
    """Gives `workbench` the layers of another whose names match, as if the build before had been its own."""
    workbench.layers.mkdir()
    for layer in first.layers.glob(pattern):
        if layer.is_dir():
            shutil.copytree(layer, workbench.layers / layer.name, symlinks=True, copy_function=os.link)
        else:
            shutil.copy(layer, workbench.layers)


def lay(workbench: Workbench, files: Mapping[str, str]) -> None:
    """Writes the files of a source."""
    for name, content in files.items():
        path = workbench.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def write(workbench: Workbench, manifest: dict[str, Any], *, lock: bool = True, **files: str) -> None:
    """Writes an application for Node.js 16, and its lock as a developer's npm makes it."""
    files["package.json"] = json.dumps({"version": "1.0.0", "engines": {"node": "16"}, **manifest})
    lay(workbench, files)
    if lock:
        command = ["npm", "install", "--package-lock-only", "--ignore-scripts", "--silent"]
        subprocess.run(command, cwd=workbench.source, check=True)


def build(workbench: Workbench) -> Outcome:
    """Detects and builds."""
    detected = workbench.detect()
    assert detected.status == 0, detected.output
    return workbench.build()


def built(workbench: Workbench) -> str:
    """What a build says that succeeds."""
    outcome = build(workbench)
    assert outcome.status == 0, outcome.output
    return outcome.output


def node(workbench: Workbench, *args: str) -> str:
    """What the application prints under the Node.js of its image."""
    argv = [workbench.layers / "node/bin/node", *args]
    return subprocess.run(argv, cwd=workbench.app, check=True, capture_output=True, text=True).stdout


def contents(*roots: Path) -> dict[str, tuple[object, ...]]:
    """Path, mode and content of everything below `roots`: what a layer's digest is made of."""
    found: dict[str, tuple[object, ...]] = {}
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_symlink():
                found[str(path)] = (os.readlink(path),)
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
                found[str(path)] = (path.stat().st_mode, digest)
    return found


def installed(*roots: Path) -> set[str]:
    """The names of all packages below some directories, links not followed."""
    found = (path for root in roots for path in root.rglob("package.json"))
    return {path.parent.name for path in found if path.parent.parent.name == "node_modules"}
