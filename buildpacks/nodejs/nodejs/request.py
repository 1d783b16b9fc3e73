"""Which Node.js an application asks for, and where it says so.

On the arrow source → plan; pure. Called by `nodejs.buildpack`. Finding the version is `nodejs.runtime`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import nodesemver

from packhorse.errors import InputError

from .project import Project
from .releases import Releases

_FILES = (".nvmrc", ".node-version")


@dataclass(frozen=True, slots=True)
class Request:
    """A range of versions as npm writes them, and its source in words: `package.json engines.node: 16`."""

    range: str
    source: str

    @classmethod
    def of(
        cls, project: Project, env: Mapping[str, str], releases: Releases, *, above: Project | None = None
    ) -> Self:
        """Takes the first of BP_NODE_VERSION, engines.node, .nvmrc, .node-version and the active LTS line.

        A project that says nothing has what is said `above` it. Raises InputError for a range or a name that
        means nothing.
        """
        setting = env.get("BP_NODE_VERSION", "").strip()
        if setting:
            return cls(_range(setting, "BP_NODE_VERSION", releases), f"BP_NODE_VERSION: {setting}")
        if project.node_range:
            source = "package.json engines.node"
            return cls(_range(project.node_range, source, releases), f"{source}: {project.node_range}")
        for name in _FILES:
            text = _first_line(project.directory / name)
            if text:
                return cls(_range(text, name, releases), f"{name}: {text}")
        if above is not None:
            return cls.of(above, env, releases)
        active = releases.supported_long[-1]
        return cls(str(active.major), "the active LTS; package.json has no engines.node")


def _first_line(path: Path) -> str:
    """The first line of `path` that says something, without its comment; empty when there is none."""
    if not path.is_file():
        return ""
    lines = (line.partition("#")[0].strip() for line in path.read_text(errors="replace").splitlines())
    return next((line for line in lines if line), "")


def _range(text: str, source: str, releases: Releases) -> str:
    """`text` as a range: names that nvm knows (`lts/*`, `lts/jod`, `lts/-1`, `node`) are looked up."""
    name = text.lower()
    if name in ("node", "stable", "current", "latest"):
        return "*"
    if name in ("lts", "lts/*", "--lts"):
        return str(releases.supported_long[-1].major)
    if name.startswith("lts/"):
        return str(_named_line(name.removeprefix("lts/"), source, releases))
    if nodesemver.valid_range(text, loose=True) is None:
        raise InputError(
            f"{source} is not a version of Node.js: {text}",
            fix='write a version or a range as npm knows it: "22", "^22.3", ">=20 <23"',
        )
    return text


def _named_line(name: str, source: str, releases: Releases) -> int:
    lines = releases.supported_long
    back = re.fullmatch(r"-(\d+)", name)
    if back and int(back[1]) < len(lines):
        return lines[-1 - int(back[1])].major
    for line in lines:
        if line.codename == name:
            return line.major
    raise InputError(
        f"{source} names an LTS line that this buildpack does not know: lts/{name}",
        why=f"it knows {', '.join(line.codename for line in lines)}",
        fix="write the major version instead",
    )
