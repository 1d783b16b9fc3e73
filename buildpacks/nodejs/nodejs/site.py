"""A layer in which modules are installed for a source that lies elsewhere, and the links between the two.

On the arrow plan → layers. Called by `nodejs.modules`. A package manager that runs in the layer finds there
the manifests of the source, of each member of a workspace at its own path, and what of settings it needs. So
node_modules come about beside them, and the source has links to these. Node.js follows a link before it
looks for modules, so a module of the layer finds its neighbours there, and one of a member's files finds the
member's own and the root's by the links. Where the manager links to a member, the layer has the manifest
alone; such links are led to the source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import residue
from .removal import delete, refusals
from .workspace import Workspace

_MODULES = "node_modules"
_SUPPLIES = (".yarn/cache", ".yarn/unplugged", ".yarn/install-state.gz", ".yarn/build-state.yml")


def prepare(workspace: Workspace, layer: Path, files: Sequence[str]) -> None:
    """Lays out in `layer`, empty or settled, the manifests of all members and `files` of the root."""
    import shutil  # which a build that keeps its modules does without

    root = workspace.root.directory
    manifest = layer / "package.json"
    if (root / "package.json").exists():
        delete(manifest)
        manifest.symlink_to(root / "package.json")
    for path in workspace.members:
        (layer / path).mkdir(parents=True, exist_ok=True)
        # Not a link, in which pnpm 12 sees no member.
        shutil.copyfile(root / path / "package.json", layer / path / "package.json")
    for file in dict.fromkeys(files):
        if (root / file).exists() and not os.path.lexists(layer / file):
            (layer / file).parent.mkdir(parents=True, exist_ok=True)
            (layer / file).symlink_to(root / file)
    (layer / _MODULES).mkdir(exist_ok=True)


def settle(
    workspace: Workspace, layer: Path, files: Sequence[str], *, launch: bool, left_out: Sequence[str] = ()
) -> None:
    """Leaves modules and their links in `layer`, and the root's manifest, for modules that look upwards.

    A layer that is not for `launch` has the manager's records too, by which it finds commands. Links to
    members that are `left_out` of the image are not in it either.
    """
    root = workspace.root.directory
    for file in files:
        (layer / file).unlink(missing_ok=True)
        _remove_empty((layer / file).parent, up_to=layer)
    gone = {root / path for path in left_out}
    members = {os.path.realpath(layer / path): root / path for path in workspace.members}
    for link in _links(layer) if members else ():
        target = members.get(os.path.realpath(link))
        if target:
            link.unlink()
            if target not in gone:
                link.symlink_to(target)
    for path in ("", *workspace.members):
        modules = layer / path / _MODULES
        if modules.is_dir():
            residue.remove(modules, records=launch)
        if path:
            (layer / path / "package.json").unlink()
            _remove_empty(modules)
            _remove_empty(layer / path, up_to=layer)


def link(workspace: Workspace, layer: Path) -> None:
    """Puts a link to the layer's modules wherever the source is to have some."""
    unlink(workspace)
    root = workspace.root.directory
    for path in ("", *workspace.members):
        if (layer / path / _MODULES).is_dir():
            (root / path / _MODULES).symlink_to(layer / path / _MODULES)


def unlink(workspace: Workspace) -> None:
    """Removes the links, and the leftovers (`.cache`) of a node_modules that has no module."""
    for path in ("", *workspace.members):
        delete(workspace.root.directory / path / _MODULES)


def remove_supplies(root: Path) -> None:
    """Removes what a source has for its package manager alone: packages to install from, records.

    Raises InputError where that is not allowed: the image would have the devDependencies' packages.
    """
    for name in _SUPPLIES:
        with refusals(f"{name} of the source"):
            delete(root / name)
    # What an installation leaves there the next build, which keeps a layer, has not.
    _remove_empty(root / ".yarn")


def _links(layer: Path) -> Iterator[Path]:
    for folder, subfolders, _ in os.walk(layer):
        for name in subfolders:
            path = Path(folder, name)
            if path.is_symlink():
                yield path


def _remove_empty(path: Path, up_to: Path | None = None) -> None:
    """Removes a directory that is empty, and those above it that become so, below `up_to`."""
    while path != up_to and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
        if up_to is None:
            return
        path = path.parent
