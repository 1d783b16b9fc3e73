"""The members of a workspace: what its patterns mean, and the folders that they name.

On the arrow source → plan; a reader without side effects. Called by `nodejs.workspace`. Patterns are npm's:
`*`, `**`, `[…]`, `{a,b}`, and `!` to take some out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from packhorse.errors import InputError

from . import packages
from .project import Project

_NEVER = {"node_modules", ".git"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST = 1000


def paths(root: Project) -> tuple[str, ...]:
    """The paths of all members below the root, in order; of several for one folder that without links.

    Raises InputError for what is no list of patterns, a pattern or a link that leads out of the source, and
    a pattern that is not understood.
    """
    wanted: dict[str, None] = {}
    for said in _patterns(root):
        pattern = said.strip().lstrip("!")
        refused = (len(said.strip()) - len(pattern)) % 2 == 1
        for one in _expanded(pattern, said):
            for path in _matches(root.directory, _plain(one, said), said):
                if refused:
                    wanted.pop(path, None)
                else:
                    wanted[path] = None
    return _distinct(root.directory, sorted(wanted))


def _distinct(root: Path, found: list[str]) -> tuple[str, ...]:
    source = root.resolve()
    folders: dict[Path, str] = {}
    for path in found:
        real = (root / path).resolve()
        if not real.is_relative_to(source):
            raise InputError(
                f"the workspace's member {path} is a link that leads out of the source: {real}",
                fix="put the folder itself into the source, or take it out of the workspace",
            )
        if real != source and (real not in folders or source / path == real):
            folders[real] = path
    return tuple(sorted(folders.values()))


def _patterns(root: Project) -> tuple[str, ...]:
    """What package.json or pnpm-workspace.yaml counts among the workspaces."""
    path = root.directory / packages.NAME
    if path.is_file():
        return packages.read(path.read_text(encoding="utf-8", errors="replace"))
    said = root.manifest.get("workspaces", ())
    if isinstance(said, Mapping):
        said = said.get("packages") or ()
    if not isinstance(said, list | tuple) or not all(isinstance(pattern, str) for pattern in said):
        raise InputError(
            "package.json workspaces is not a list of folders",
            fix='write it as in "workspaces": ["packages/*"]',
        )
    return tuple(said)


def _expanded(pattern: str, said: str) -> Iterator[str]:
    """All that `{a,b}` in a pattern stands for, whether side by side or one in another."""
    left = [pattern]
    for _ in range(_MOST):
        if not left:
            return
        one = left.pop()
        match = _BRACES.search(one)
        if match is None:
            yield one
        elif "," not in match[1]:
            raise _not_understood(said)
        else:
            before, after = one[: match.start()], one[match.end() :]
            left += (f"{before}{choice}{after}" for choice in reversed(match[1].split(",")))
    raise _not_understood(said)


def _plain(pattern: str, said: str) -> str:
    """A pattern as pathlib takes it, below the root; empty for the root itself."""
    parts: list[str] = []
    for part in pattern.replace("\\", "/").split("/"):
        if part == "..":
            if not parts or re.search(r"[*?\[]", parts[-1]):
                raise InputError(
                    f"a pattern of the workspace leads out of the source: {said}",
                    fix="build from the folder above, and name this one with BP_NODE_PROJECT_PATH",
                )
            parts.pop()
        elif part == "**":
            parts += [part] if parts[-1:] != ["**"] else []
        elif part not in ("", "."):
            parts.append(re.sub(r"\*\*+", "*", part))
    if any(re.search(r"[@?+*!]\(|[{}\0]", part) for part in parts):
        raise _not_understood(said)
    return "/".join(parts)


def _matches(directory: Path, pattern: str, said: str) -> Iterator[str]:
    if not pattern:
        return
    shows = any(part.startswith(".") for part in pattern.split("/"))
    try:
        for path in directory.glob(pattern):
            below = path.relative_to(directory)
            there = path.is_dir() and (path / "package.json").exists()
            hidden = not shows and any(part.startswith(".") for part in below.parts)
            if there and below.parts and not hidden and not _NEVER.intersection(below.parts):
                yield below.as_posix()
    except (ValueError, OSError, re.error, RuntimeError) as error:
        raise _not_understood(said) from error


def _not_understood(said: str) -> InputError:
    return InputError(
        f"a pattern of the workspace is not understood: {said[:200]!r}",
        fix="name folders, with `*`, `**`, `[…]` and `{a,b}`, and `!` in front to take some out",
    )
