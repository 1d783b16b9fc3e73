"""Replaces manifests for a while by ones with fewer dependencies.

Called by `yarn` and `npm`. Not every Yarn has a command that installs only for production, or only for some
members of a workspace. But every Yarn installs only what the manifests ask for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from packhorse.errors import InputError

from ..project import DEPENDENCIES, INSTALL_SCRIPTS, Project
from ..workspace import Workspace


@contextmanager
def without_dev(directory: Path, focus: Sequence[str]) -> Iterator[None]:
    """In the block, manifests below `directory` have no devDependencies and no install scripts.

    Members of the workspace that `focus` does not name have no dependencies either, unless `focus` is empty.
    Afterwards the files and links are as before.
    """
    workspace = Workspace.read(directory, "")
    with ExitStack() as stack:
        stack.enter_context(
            _replace_file(directory / "package.json", _TrimmedManifest(workspace.root, needed=True))
        )
        for path, member in workspace.members.items():
            needed = not focus or (member.name or f"./{path}") in focus
            stack.enter_context(
                _replace_file(member.directory / "package.json", _TrimmedManifest(member, needed=needed))
            )
        stack.enter_context(private_copy(directory / "yarn.lock"))
        yield


@contextmanager
def private_copy(path: Path) -> Iterator[None]:
    """In the block, `path` may be written; afterwards it is as before, or missing again."""
    with _replace_file(path, lambda: path.read_bytes() if path.is_file() else b""):
        yield


class _TrimmedManifest:
    """The text of a manifest without dependencies that are not needed."""

    def __init__(self, project: Project, *, needed: bool) -> None:
        self._manifest: Mapping[str, Any] = project.manifest
        self._gone = {"devDependencies", *(() if needed else DEPENDENCIES)}

    def __call__(self) -> bytes:
        manifest = {name: value for name, value in self._manifest.items() if name not in self._gone}
        scripts = manifest.get("scripts", {})
        manifest["scripts"] = {name: text for name, text in scripts.items() if name not in INSTALL_SCRIPTS}
        return json.dumps(manifest, indent=2).encode()


@contextmanager
def _replace_file(path: Path, text: Callable[[], bytes]) -> Iterator[None]:
    """Replaces `path`, which may be a link, for the block."""
    content = text()
    aside = path.with_name(f".{path.name}.aside")
    is_there = path.is_file()
    try:
        if is_there:
            path.rename(aside)
        path.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"{path.name} cannot be replaced for a while: {path}",
            why=str(error),
            fix="let the owner of the source write to its folder",
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        if is_there:
            aside.rename(path)
