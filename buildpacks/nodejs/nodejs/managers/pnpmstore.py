"""What pnpm leaves in node_modules/.pnpm when fewer projects of a workspace are installed than before.

On the arrow plan → layers. Called by `pnpm`. It takes care of the projects that are named, and keeps what it
installed for the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..project import DEPENDENCIES, Project
from ..removal import delete

_STORE = "node_modules/.pnpm"
_HOISTED = "node_modules"


def sweep(root: Path, projects: Mapping[str, Project]) -> None:
    """Removes all packages below `root` that none of `projects`, by their paths, leads to, and links to them.

    A link of the root that its manifest does not name is a hoisted one, and holds nothing.
    """
    store = root / _STORE
    if not store.is_dir():
        return
    needed = _reached(root, store, projects)
    for path in list(store.iterdir()):
        is_package = path.is_dir() and not path.is_symlink() and path.name != _HOISTED
        if is_package and path.name not in needed:
            delete(path)
    for link in _links(root / "node_modules"):
        if not link.exists() and _within(store, link):
            link.unlink()


def _reached(root: Path, store: Path, projects: Mapping[str, Project]) -> set[str]:
    """The names of folders in the store that projects, and what these lead to, have links to."""
    waiting = [
        root / path / "node_modules" / name
        for path, project in projects.items()
        for name in project.dependency_names(DEPENDENCIES)
    ]
    found: set[str] = set()
    while waiting:
        name = _within(store, waiting.pop())
        if name and name not in found and name != _HOISTED:
            found.add(name)
            waiting += _links(store / name / "node_modules")
    return found


def _within(store: Path, link: Path) -> str:
    """The folder of the store that a link leads to; empty for anything else."""
    target = Path(os.path.realpath(link))
    real = Path(os.path.realpath(store))
    return target.relative_to(real).parts[0] if target != real and target.is_relative_to(real) else ""


def _links(modules: Path) -> Iterator[Path]:
    for pattern in ("[!.]*", "@*/*"):
        yield from (path for path in modules.glob(pattern) if path.is_symlink())
