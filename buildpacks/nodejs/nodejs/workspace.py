"""Which application of a source is built: the source itself, a folder of it, or a member of its workspace.

On the arrow source → plan; a reader without side effects. Called by `nodejs.buildpack`. BP_NODE_PROJECT_PATH
names the folder. One that the manifest above does not count among its workspaces is a project of its own.
What of a workspace's other members the application needs is read from the dependencies of their manifests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field, replace

from . import packages
from .members import paths
from .project import DEPENDENCIES, Project, digest

SETTING = "BP_NODE_PROJECT_PATH"
NX, NX_PROJECT = "nx.json", "project.json"
# How the path of a dependency begins, and a name with a range; what pnpm's settings have of either.
_PATHS = ("link", "file", "portal")
_NAMED = re.compile(r"(?:workspace:|npm:)((?:@[^@/]+/)?[^@/:]+)(?:@.*)?")
_SPEC = re.compile(r"""\b(?:link|file|workspace|npm):[^\s'",}]+""")
_BUN_LOCKS = ("bun.lock", "bun.lockb")
_RULES = ("resolutions", "overrides")


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
        members = {path: Project.read(directory / path, f"{path}/package.json") for path in paths(root)}
        if not chosen:
            return cls(root, root, members)
        source, folder = _folder(directory, ""), _folder(directory, chosen)
        app = next((member for path, member in members.items() if source / path == folder), None)
        if app is None:
            app = next(
                (member for path, member in members.items() if _folder(directory, path) == folder), None
            )
        if app:
            return cls(root, replace(app, bun_above=_bun_reason(root)), members)
        if not folder.is_relative_to(source):
            raise _leads_out(setting)
        if not folder.is_dir():
            listed = "\n".join(sorted(members)) or "package.json names no workspaces"
            raise InputError(f"{SETTING} names no folder of the source: {setting}", why=listed)
        alone = Project.read(directory / chosen, f"{chosen}/package.json")
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
            member = self.members[path]
            for name, spec in member.dependencies(parts):
                for other in self._meant(name, spec, member.directory):
                    visit(other)
            found[path] = None

        for spec in self._ruled:
            for path in self._meant("", spec, self.root.directory):
                visit(path)
        visit(self.path)
        return tuple(found)

    @property
    def unneeded(self) -> tuple[str, ...]:
        """The members that the application does not need, but for those around one that it needs.

        Of these the first alone where one is in another.
        """
        needed = self.needed(dev=False)
        spared = {part for path in needed for part in (path, *map(str, PurePosixPath(path).parents))}
        folders = {self._folders[path] for path in needed}
        folders |= {above for folder in folders for above in folder.parents}
        gone: dict[str, None] = {}
        for path in sorted(self.members):
            is_below = any(str(above) in gone for above in PurePosixPath(path).parents)
            if path not in spared and self._folders[path] not in folders and not is_below:
                gone[path] = None
        return tuple(gone)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return {path: member.directory.resolve() for path, member in self.members.items()}

    @cached_property
    def _by_folder(self) -> dict[Path, str]:
        return {folder: path for path, folder in self._folders.items()}

    def _meant(self, name: str, spec: str, directory: Path) -> Iterator[str]:
        """The members that a dependency of the manifest in `directory` is or may be."""
        kind, _, place = spec.partition(":")
        if kind == "workspace":
            # pnpm's paths are from the manifest, Yarn's from the root.
            folders = [_folder(start, place) for start in (directory, self.root.directory)]
        elif kind in _PATHS or spec.startswith("."):
            folder = _folder(directory, place if kind in _PATHS else spec)
            folders = [next((one for one in (folder, *folder.parents) if one in self._by_folder), folder)]
        else:
            folders = []
        yield from (self._by_folder[folder] for folder in folders if folder in self._by_folder)
        named = _NAMED.fullmatch(spec)
        if named and named[1] in self._by_name:
            yield self._by_name[named[1]]
        if name in self._by_name and kind != "npm":
            yield self._by_name[name]

    @property
    def _ruled(self) -> Iterator[str]:
        """What the root puts in the place of dependencies anywhere."""
        pnpm = self.root.manifest.get("pnpm")
        left = [self.root.manifest.get(rule) for rule in _RULES]
        left.append(pnpm.get("overrides") if isinstance(pnpm, dict) else None)
        while left:
            rules = left.pop()
            if isinstance(rules, dict):
                left += rules.values()
            elif isinstance(rules, str):
                yield rules
        path = self.root.directory / packages.NAME
        if path.is_file():
            yield from _SPEC.findall(path.read_text(encoding="utf-8", errors="replace"))

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
        """The SHA-256 of what all manifests say about dependencies, as `sha256:<hex>`.

        By their names members are linked to.
        """
        said = [self.root.dependencies_digest]
        said += [
            f"{path} {member.name} {member.dependencies_digest}" for path, member in self.members.items()
        ]
        return digest("\n".join(said).encode()) if self.members else said[0]

    def _projects(self, *, dev: bool) -> tuple[Project, ...]:
        return (self.root, *(self.members[path] for path in self.needed(dev=dev)))

    def names(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The names of members by their paths; what has none is called by its path."""
        return tuple(self.members[path].name or f"./{path}" for path in paths)


def _path(setting: str) -> str:
    path = PurePosixPath(setting.strip() or ".")
    if path.is_absolute() or ".." in path.parts:
        raise _leads_out(setting)
    return "" if path == PurePosixPath(".") else str(path)


def _leads_out(setting: str) -> InputError:
    return InputError(
        f"{SETTING} leads out of the source: {setting}", fix="name a folder below the source's own"
    )


def _folder(start: Path, path: str) -> Path:
    """Where a path leads by whatever links; one that no system has, nowhere."""
    try:
        return Path(os.path.realpath(start / path))
    except ValueError:
        return Path()


def _bun_reason(root: Project) -> str:
    """Where the root asks for Bun on behalf of all members: only a workspace that Bun installs."""
    is_buns = str(root.manifest.get("packageManager", "")).startswith("bun@")
    if is_buns or any((root.directory / name).is_file() for name in _BUN_LOCKS):
        return f"the workspace's {root.bun_reason}" if root.bun_reason else ""
    return ""
