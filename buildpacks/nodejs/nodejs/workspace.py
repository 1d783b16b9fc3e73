"""Finds the application in a source: the source itself, a folder of it, or a member of its workspace.

Reads only. Called by `buildpack`. BP_NODE_PROJECT_PATH names the folder. A folder that the workspace of the
source does not list is a project of its own. Which members the application needs is read from the
dependencies in their manifests.

Patterns of members have npm's form: `*`, `**`, `[…]`, `{a,b}`, and `!` to exclude. Of pnpm-workspace.yaml
only the list `packages` is read. YAML has many forms; a form that is not read here is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Self

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field, replace

from .project import DEPENDENCIES, Project, digest

PNPM_WORKSPACE = "pnpm-workspace.yaml"
_PACKAGES_KEY = re.compile(r"""(?:packages|"packages"|'packages')[ \t]*:(?=[ \t]|$)""")
_QUOTED_TEXT = re.compile(r""""([^"\\]*)"|'([^']*)'""")
_COMMENT = re.compile(r"(?:^|[ \t])#.*")
# Characters that do not begin plain text.
_SPECIAL = tuple("&*!|>%@`{}[],?:'\"")
# Beginnings of a document that is not a plain table.
_OTHER_STARTS = (*_SPECIAL[:10], "- ", " ", "\t")


def read_pnpm_packages(text: str) -> tuple[str, ...]:
    """Reads the patterns in `text`; raises InputError, with the line, for an unknown form."""
    lines = text.removeprefix("\ufeff").splitlines()
    first = next((line for line in lines if line.strip() and line[0] not in "#%" and line[:3] != "---"), "")
    if first.startswith(_OTHER_STARTS) and first.strip()[0] != "#":
        raise _yaml_error(lines.index(first) + 1, first)
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("?") or re.match(r'"[^"]*\\', line):
            raise _yaml_error(number, line)
        if match := _PACKAGES_KEY.match(line):
            rest = _COMMENT.sub("", line[match.end() :]).strip()
            while not rest.strip() and number < len(lines) and lines[number].strip()[:1] in ("", "#", "["):
                rest = _COMMENT.sub("", lines[number]).strip()
                number += 1
            found += (
                _flow_items(rest, lines, number)
                if rest.startswith("[")
                else _block_items(rest, lines, number)
            )
    return tuple(found)


def _block_items(rest: str, lines: Sequence[str], number: int) -> Iterator[str]:
    """The items on the lines after line `number`, which has the key and `rest`."""
    if _COMMENT.sub("", rest).strip() not in ("", "null", "~"):
        raise _yaml_error(number, lines[number - 1])
    for place, line in enumerate(lines[number:], number + 1):
        said = line.strip()
        if not said or said.startswith("#"):
            continue
        if said.startswith("- "):
            yield _parse_item(said[2:].strip(), place, line)
        elif line[0] in " \t" or said == "-":
            raise _yaml_error(place, line)
        else:
            return


def _parse_item(said: str, number: int, line: str) -> str:
    if match := _QUOTED_TEXT.match(said):
        value, said = match[1] or match[2] or "", said[match.end() :]
        if _COMMENT.sub("", said).strip():
            raise _yaml_error(number, line)
        return value
    value = _COMMENT.sub("", said).strip()
    if not value or value.startswith((*_SPECIAL, "- ")) or ": " in value or value.endswith(":"):
        raise _yaml_error(number, line)
    return value


def _flow_items(rest: str, lines: Sequence[str], number: int) -> Iterator[str]:
    """The items between brackets, on line `number` or on several."""
    said = rest[1:]
    separated = True
    while True:
        said = said.lstrip()
        if not said or said.startswith("#"):
            if number == len(lines):
                raise _yaml_error(number, lines[-1])
            said = lines[number]
            number += 1
        elif said[0] == "]":
            if _COMMENT.sub("", said[1:]).strip():
                raise _yaml_error(number, lines[number - 1])
            return
        elif said[0] == "," and not separated:
            said, separated = said[1:], True
        else:
            match = _QUOTED_TEXT.match(said) or re.match(r"[^,\[\]{}#]+", said)
            if not match or not separated:
                raise _yaml_error(number, lines[number - 1])
            yield _parse_item(match[0].strip(), number, lines[number - 1])
            said, separated = said[match.end() :], False


def _yaml_error(number: int, line: str) -> InputError:
    return InputError(
        f"{PNPM_WORKSPACE} is not understood on line {number}",
        why=line.strip(),
        fix="write `packages:` and below it an item on each line, as in `  - 'apps/*'`",
    )


_EXCLUDED = {"node_modules", ".git"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_PATTERNS = 1000


def member_paths(root: Project) -> tuple[str, ...]:
    """The paths of all members below the root, in order; of several for one folder, the one without links.

    Raises InputError if the patterns are not a list, for a pattern or link that leads out of the source, and
    for a pattern that is not understood.
    """
    wanted: dict[str, None] = {}
    for said in _patterns(root):
        pattern = said.strip().lstrip("!")
        refused = (len(said.strip()) - len(pattern)) % 2 == 1
        for one in _expand_braces(pattern, said):
            for path in _match_folders(root.directory, _normalize_pattern(one, said), said):
                if refused:
                    wanted.pop(path, None)
                else:
                    wanted[path] = None
    return _distinct_folders(root.directory, sorted(wanted))


def _distinct_folders(root: Path, found: list[str]) -> tuple[str, ...]:
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
    """The patterns in package.json or pnpm-workspace.yaml."""
    path = root.directory / PNPM_WORKSPACE
    if path.is_file():
        return read_pnpm_packages(path.read_text(encoding="utf-8", errors="replace"))
    said = root.manifest.get("workspaces", ())
    if isinstance(said, Mapping):
        said = said.get("packages") or ()
    if not isinstance(said, list | tuple) or not all(isinstance(pattern, str) for pattern in said):
        raise InputError(
            "package.json workspaces is not a list of folders",
            fix='write it as in "workspaces": ["packages/*"]',
        )
    return tuple(said)


def _expand_braces(pattern: str, said: str) -> Iterator[str]:
    """Expands `{a,b}` in a pattern, also nested ones."""
    left = [pattern]
    for _ in range(_MAX_PATTERNS):
        if not left:
            return
        one = left.pop()
        match = _BRACES.search(one)
        if match is None:
            yield one
        elif "," not in match[1]:
            raise _pattern_error(said)
        else:
            before, after = one[: match.start()], one[match.end() :]
            left += (f"{before}{choice}{after}" for choice in reversed(match[1].split(",")))
    raise _pattern_error(said)


def _normalize_pattern(pattern: str, said: str) -> str:
    """The pattern in pathlib's form, below the root; empty for the root itself."""
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
        raise _pattern_error(said)
    return "/".join(parts)


def _match_folders(directory: Path, pattern: str, said: str) -> Iterator[str]:
    if not pattern:
        return
    shows = any(part.startswith(".") for part in pattern.split("/"))
    try:
        for path in directory.glob(pattern):
            below = path.relative_to(directory)
            there = path.is_dir() and (path / "package.json").exists()
            hidden = not shows and any(part.startswith(".") for part in below.parts)
            if there and below.parts and not hidden and not _EXCLUDED.intersection(below.parts):
                yield below.as_posix()
    except (ValueError, OSError, re.error, RuntimeError) as error:
        raise _pattern_error(said) from error


def _pattern_error(said: str) -> InputError:
    return InputError(
        f"a pattern of the workspace is not understood: {said[:200]!r}",
        fix="name folders, with `*`, `**`, `[…]` and `{a,b}`, and `!` in front to take some out",
    )


PROJECT_SETTING = "BP_NODE_PROJECT_PATH"
NX, NX_PROJECT = "nx.json", "project.json"
# Prefixes of a dependency's path; a name with a range; both in pnpm's settings.
_PATH_PREFIXES = ("link", "file", "portal")
_NAMED_DEPENDENCY = re.compile(r"(?:workspace:|npm:)((?:@[^@/]+/)?[^@/:]+)(?:@.*)?")
_LOCAL_DEPENDENCY = re.compile(r"""\b(?:link|file|workspace|npm):[^\s'",}]+""")
_BUN_LOCKS = ("bun.lock", "bun.lockb")
_OVERRIDE_FIELDS = ("resolutions", "overrides")


@dataclass(frozen=True)
class Workspace:
    """`root` has the lockfile and gets the modules; `app` is built and started. Often they are the same.

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
        chosen = _check_setting(setting)
        members = {
            path: Project.read(directory / path, f"{path}/package.json") for path in member_paths(root)
        }
        if not chosen:
            return cls(root, root, members)
        source, folder = _resolve_folder(directory, ""), _resolve_folder(directory, chosen)
        app = next((member for path, member in members.items() if source / path == folder), None)
        if app is None:
            app = next(
                (member for path, member in members.items() if _resolve_folder(directory, path) == folder),
                None,
            )
        if app:
            return cls(root, replace(app, bun_above=_bun_reason(root)), members)
        if not folder.is_relative_to(source):
            raise _outside_error(setting)
        if not folder.is_dir():
            listed = "\n".join(sorted(members)) or "package.json names no workspaces"
            raise InputError(f"{PROJECT_SETTING} names no folder of the source: {setting}", why=listed)
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

    def needed_members(self, *, dev: bool) -> tuple[str, ...]:
        """The paths of the members that the application needs, with itself, dependencies first.

        With `dev`, also those that are needed only to build them. All members if the application is the root,
        which may use any of them, or a folder whose dependencies only nx knows.
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
                for other in self._resolve_dependency(name, spec, member.directory):
                    visit(other)
            found[path] = None

        for spec in self._overrides:
            for path in self._resolve_dependency("", spec, self.root.directory):
                visit(path)
        visit(self.path)
        return tuple(found)

    @property
    def unneeded_members(self) -> tuple[str, ...]:
        """The members that the application does not need, except those that contain a needed one.

        If one contains another, only the outer one.
        """
        needed = self.needed_members(dev=False)
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

    def _resolve_dependency(self, name: str, spec: str, directory: Path) -> Iterator[str]:
        """The members that a dependency of the manifest in `directory` names or may name."""
        kind, _, place = spec.partition(":")
        if kind == "workspace":
            # pnpm's paths are from the manifest, Yarn's from the root.
            folders = [_resolve_folder(start, place) for start in (directory, self.root.directory)]
        elif kind in _PATH_PREFIXES or spec.startswith("."):
            folder = _resolve_folder(directory, place if kind in _PATH_PREFIXES else spec)
            folders = [next((one for one in (folder, *folder.parents) if one in self._by_folder), folder)]
        else:
            folders = []
        yield from (self._by_folder[folder] for folder in folders if folder in self._by_folder)
        named = _NAMED_DEPENDENCY.fullmatch(spec)
        if named and named[1] in self._by_name:
            yield self._by_name[named[1]]
        if name in self._by_name and kind != "npm":
            yield self._by_name[name]

    @property
    def _overrides(self) -> Iterator[str]:
        """The root's overrides of dependencies."""
        pnpm = self.root.manifest.get("pnpm")
        left = [self.root.manifest.get(rule) for rule in _OVERRIDE_FIELDS]
        left.append(pnpm.get("overrides") if isinstance(pnpm, dict) else None)
        while left:
            rules = left.pop()
            if isinstance(rules, dict):
                left += rules.values()
            elif isinstance(rules, str):
                yield rules
        path = self.root.directory / PNPM_WORKSPACE
        if path.is_file():
            yield from _LOCAL_DEPENDENCY.findall(path.read_text(encoding="utf-8", errors="replace"))

    @property
    def inside_reason(self) -> str:
        """Why node_modules must be directories in the source; empty if links to a layer work."""
        for path, project in {"": self.root, **self.members}.items():
            reason = project.inside_reason
            if path and not reason and "bin" in project.manifest:
                reason = "it has commands, which an installation has to find"
            if reason:
                return f"{path}: {reason}" if path else reason
        return ""

    @property
    def has_dev_dependencies(self) -> bool:
        """Whether the root or a needed member has devDependencies."""
        return any(project.has_dev_dependencies for project in self._projects(dev=True))

    def has_dependencies(self, *, dev: bool) -> bool:
        """Whether the application has dependencies to install."""
        return any(
            project.has_dependencies or (dev and project.has_dev_dependencies)
            for project in self._projects(dev=dev)
        )

    @property
    def dependencies_digest(self) -> str:
        """The SHA-256 of what all manifests say about dependencies, as `sha256:<hex>`.

        It includes the names of members, because links use them.
        """
        said = [self.root.dependencies_digest]
        said += [
            f"{path} {member.name} {member.dependencies_digest}" for path, member in self.members.items()
        ]
        return digest("\n".join(said).encode()) if self.members else said[0]

    def _projects(self, *, dev: bool) -> tuple[Project, ...]:
        return (self.root, *(self.members[path] for path in self.needed_members(dev=dev)))

    def names(self, paths: tuple[str, ...]) -> tuple[str, ...]:
        """The names of members; a member without a name is called by its path."""
        return tuple(self.members[path].name or f"./{path}" for path in paths)


def _check_setting(setting: str) -> str:
    path = PurePosixPath(setting.strip() or ".")
    if path.is_absolute() or ".." in path.parts:
        raise _outside_error(setting)
    return "" if path == PurePosixPath(".") else str(path)


def _outside_error(setting: str) -> InputError:
    return InputError(
        f"{PROJECT_SETTING} leads out of the source: {setting}", fix="name a folder below the source's own"
    )


def _resolve_folder(start: Path, path: str) -> Path:
    """The path with all links resolved; an empty path if the system cannot have it."""
    try:
        return Path(os.path.realpath(start / path))
    except ValueError:
        return Path()


def _bun_reason(root: Project) -> str:
    """Where the root asks for Bun for all members; only if Bun installs the workspace."""
    is_buns = str(root.manifest.get("packageManager", "")).startswith("bun@")
    if is_buns or any((root.directory / name).is_file() for name in _BUN_LOCKS):
        return f"the workspace's {root.bun_reason}" if root.bun_reason else ""
    return ""
