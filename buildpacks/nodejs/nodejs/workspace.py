"""Which application of a source is built: the source itself, a folder of it, or a member of its workspace.

On the arrow source → plan; a reader without side effects. Called by `nodejs.buildpack`. BP_NODE_PROJECT_PATH
names the folder. One that the manifest above does not count among its workspaces is a project of its own.
What of a workspace's other members the application needs is read from the dependencies of their manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from packhorse.errors import InputError

from .project import DEPENDENCIES, Project, digest

SETTING = "BP_NODE_PROJECT_PATH"
NX, NX_PROJECT = "nx.json", "project.json"
_PNPM = "pnpm-workspace.yaml"
_NEVER = {"node_modules", ".git"}
# An item of a YAML list, plain or quoted, and a comment behind it.
_ITEM = re.compile(r"""\s*-\s+(?:"([^"]*)"|'([^']*)'|([^#'"\s][^#]*?))\s*(?:#.*)?""")


@dataclass(frozen=True)
class Workspace:
    """`root` has the lock and gets the modules, `app` is what is built and started; often they are the same.

    `members` are all projects of the workspace by their paths below the root.
    """

    root: Project
    app: Project
    members: Mapping[str, Project] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path, setting: str) -> Self:
        """Reads the source in `directory`; `setting` is a path below it, or empty.

        Raises InputError for a manifest that cannot be used, a path that leads outside or to no project, and
        a source with members but without an application of its own to start, where none was chosen.
        """
        root = Project.read(directory)
        chosen = _path(setting)
        members = {path: Project.read(directory / path) for path in _members(root)}
        if not chosen:
            return cls(root, root, members)
        app = members.get(chosen)
        if app:
            return cls(root, app, members)
        if not (directory / chosen).is_dir():
            listed = "\n".join(sorted(members)) or "package.json names no workspaces"
            raise InputError(f"{SETTING} names no folder of the source: {setting}", why=listed)
        alone = Project.read(directory / chosen)
        is_nx = (directory / NX).is_file() and (alone.directory / NX_PROJECT).is_file()
        if is_nx and not alone.manifest:
            return cls(root, alone, members)
        return cls(alone, alone)

    @property
    def is_member(self) -> bool:
        """Whether the application is one of several projects that share their modules."""
        return self.app is not self.root

    @property
    def path(self) -> str:
        """Where the application is below the root; empty for the root itself."""
        return self.app.directory.relative_to(self.root.directory).as_posix() if self.is_member else ""

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {member.name: path for path, member in self.members.items() if member.name}

    def needed(self, *, dev: bool) -> tuple[str, ...]:
        """The paths of the members that the application needs, itself included, dependencies first.

        With `dev` those too that are needed only to build them. All members if the application is the root,
        which may use any of them, or a folder that says its dependencies to nx alone.
        """
        if self.path not in self.members:
            return tuple(self.members)
        found: dict[str, None] = {}
        seen: set[str] = set()

        def visit(path: str) -> None:
            if path in seen:
                return
            seen.add(path)
            parts = (*DEPENDENCIES, "devDependencies") if dev else DEPENDENCIES
            for name in self.members[path].dependency_names(parts):
                if name in self._by_name:
                    visit(self._by_name[name])
            found[path] = None

        visit(self.path)
        return tuple(found)

    @property
    def inside_reason(self) -> str:
        """Why node_modules must be directories in the source; empty when links to a layer will do."""
        for path, project in {"": self.root, **self.members}.items():
            reason = project.inside_reason
            if path and not reason and "bin" in project.manifest:
                reason = "it has commands, which an installation has to find"
            if reason:
                return f"{path}: {reason}" if path else reason
        return ""

    @property
    def has_dev_dependencies(self) -> bool:
        """Whether the root or a member needs anything for development only."""
        return any(project.has_dev_dependencies for project in self._projects(dev=True))

    def has_dependencies(self, *, dev: bool) -> bool:
        """Whether anything has to be installed for the application."""
        return any(
            project.has_dependencies or (dev and project.has_dev_dependencies)
            for project in self._projects(dev=dev)
        )

    @property
    def dependencies_digest(self) -> str:
        """The SHA-256 of what all manifests say about dependencies, as `sha256:<hex>`."""
        said = [self.root.dependencies_digest]
        said += [f"{path} {member.dependencies_digest}" for path, member in self.members.items()]
        return digest("\n".join(said).encode()) if self.members else said[0]

    def _projects(self, *, dev: bool) -> tuple[Project, ...]:
        return (self.root, *(self.members[path] for path in self.needed(dev=dev)))

    def names(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The names of members by their paths; what has none is called by its path."""
        return tuple(self.members[path].name or f"./{path}" for path in paths)


def _path(setting: str) -> str:
    path = PurePosixPath(setting.strip() or ".")
    if path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{SETTING} leads out of the source: {setting}", fix="name a folder below the source's own"
        )
    return "" if path == PurePosixPath(".") else str(path)


def _members(root: Project) -> Iterator[str]:
    """The paths of all members below the root, in order; patterns are npm's, with `!` to take some out."""
    wanted: dict[str, None] = {}
    for pattern in _patterns(root):
        refused = pattern.startswith("!")
        for path in _matches(root.directory, pattern.lstrip("!").strip().removeprefix("./").rstrip("/")):
            if refused:
                wanted.pop(path, None)
            else:
                wanted[path] = None
    return iter(sorted(wanted))


def _matches(directory: Path, pattern: str) -> Iterator[str]:
    if not pattern or pattern == "." or pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
        return
    for path in directory.glob(pattern):
        below = path.relative_to(directory)
        if not _NEVER.intersection(below.parts) and (path / "package.json").is_file():
            yield below.as_posix()


def _patterns(root: Project) -> tuple[str, ...]:
    """What package.json or pnpm-workspace.yaml counts among the workspaces."""
    path = root.directory / _PNPM
    if path.is_file():
        return tuple(_packages(path.read_text(errors="replace")))
    said = root.manifest.get("workspaces", ())
    if isinstance(said, Mapping):
        said = said.get("packages", ())
    if not isinstance(said, list | tuple) or not all(isinstance(pattern, str) for pattern in said):
        raise InputError(
            "package.json workspaces is not a list of folders",
            fix='write it as in "workspaces": ["packages/*"]',
        )
    return tuple(said)


def _packages(text: str) -> Iterator[str]:
    """The list `packages` of pnpm-workspace.yaml, of which this reads nothing else."""
    inside = False
    for line in text.splitlines():
        if inside and (match := _ITEM.fullmatch(line)):
            yield next(part for part in match.groups() if part is not None)
        elif line.strip() and not line.lstrip().startswith("#"):
            inside = bool(re.fullmatch(r"packages:\s*(?:#.*)?", line))
            flow = re.fullmatch(r"packages:\s*\[(.*)\]\s*(?:#.*)?", line)
            if flow:
                yield from (item.strip().strip("'\"") for item in flow[1].split(",") if item.strip())
