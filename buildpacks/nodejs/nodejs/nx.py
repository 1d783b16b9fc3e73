"""What nx says of an application that has no package.json of its own: its build target and what that makes.

On the arrow source → plan; a reader. Called by `nodejs.buildpack` and `nodejs.tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from .project import document
from .start import Start
from .workspace import NX_PROJECT, Workspace

_MAIN = "main.js"


def project(directory: Path) -> Mapping[str, object]:
    """What a folder's project.json says; empty without one. Raises InputError when it cannot be read."""
    said = document(directory / NX_PROJECT, f"{NX_PROJECT} of {directory.name}")
    return said if isinstance(said, dict) else {}


def targets(directory: Path) -> Mapping[str, object]:
    """The targets of a project.json by their names."""
    said = project(directory).get("targets")
    return said if isinstance(said, dict) else {}


def start(workspace: Workspace) -> Start | None:
    """The command that starts what the build target makes, from the root; None where nx says none of it."""
    build = targets(workspace.app.directory).get("build")
    options = build.get("options") if isinstance(build, dict) else None
    if workspace.app.manifest or not isinstance(options, dict):
        return None
    output = options.get("outputPath")
    if not isinstance(output, str) or not output:
        return None
    output = output.replace("{workspaceRoot}/", "").replace("{projectRoot}", workspace.path)
    main = PurePosixPath(output, str(options.get("outputFileName", _MAIN)))
    return Start(("node", str(main)), f"{workspace.path}/{NX_PROJECT} targets.build.options")
