"""The files of a source that its settings name: certificates, hooks, plugins.

On the arrow source → plan; a reader without side effects. Called by the managers: an installation elsewhere
needs these files, too, as they are named from where it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..project import Project

# Quotes and white space are no part of a path here, and what is longer than any path is none.
_WORD = re.compile(r"""[^\s'"=,:\[\]{}]{3,1000}""")
_CODE = (".js", ".cjs", ".mjs")
# Whole folders of these are taken care of.
_ELSEWHERE = (".yarn", "node_modules")


def files(project: Project, *settings: str) -> tuple[str, ...]:
    """The paths below the project that its files called `settings` name and that are there."""
    found = {path for name in settings for path in _named(project.directory, name)}
    return tuple(sorted(found))


def code(project: Project, *settings: str) -> dict[str, str]:
    """Of these the digests of programs, by their paths: what they do may decide what is installed."""
    return {path: project.digest(path) for path in files(project, *settings) if path.endswith(_CODE)}


def _named(directory: Path, name: str) -> Iterator[str]:
    path = directory / name
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.lstrip().startswith(("#", ";", "//")):
            continue
        for word in _WORD.findall(line):
            inside = PurePosixPath(word.removeprefix("./"))
            is_path = "." in inside.name and not inside.is_absolute() and ".." not in inside.parts
            is_meant = is_path and inside.parts[0] not in _ELSEWHERE and inside.name != "package.json"
            if is_meant and (directory / inside).is_file():
                yield str(inside)
