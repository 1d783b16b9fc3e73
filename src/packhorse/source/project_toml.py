"""① project.toml: which files are part of the source, and variables for buildpacks.

(extensions/project-descriptor.md, schemas 0.1 to 0.3.) Whatever else in it would change the build is refused,
so that no promise of the file is dropped in silence. Called by `build.plan`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from packhorse.base import files
from packhorse.base.dataclass import dataclass, field
from packhorse.base.toml import Table, Warn
from packhorse.errors import InputError

NAME = "project.toml"
"""The file's name, in the top directory of the source."""

ALWAYS_EXCLUDED = (".git",)
"""What is never part of the source: history changes without the source changing, and can hold secrets."""

_SCHEMAS = ("0.1", "0.2", "0.3")
_PROJECT = (
    *("schema-version", "id", "name", "version", "authors", "documentation-url", "source-url", "licenses"),
    "metadata",
)


@dataclass(frozen=True, slots=True)
class Project:
    """One project.toml. `exclude` and `include` are patterns as in a .gitignore; one of them is empty."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, app: Path, *, overridden: Sequence[str] = (), warn: Warn | None = None) -> Self:
        """Reads the file of a source directory; without one there is nothing to leave out.

        See `parse`; raises InputError for a file that cannot be read too.
        """
        path = app / NAME
        if not os.path.lexists(path):
            return cls()
        if not files.is_file(path):
            raise InputError(
                f"{path} cannot be read",
                why="it leads to no file that this user may read",
                fix="correct or remove it",
            )
        return cls.parse(files.read(path), str(path), overridden=overridden, warn=warn)

    @classmethod
    def parse(
        cls, data: bytes, source: str, *, overridden: Sequence[str] = (), warn: Warn | None = None
    ) -> Self:
        """Reads a project.toml; raises InputError with every issue in it.

        `overridden` are the settings (`builder`, `group`) that the command line has, which wins.
        """
        top = Table.read(data, source, warn)
        schema = top.table("_")
        version = schema.text("schema-version") or "0.1"
        if version not in _SCHEMAS:
            schema.add_issue(
                f"schema version {version!r} is not one of {', '.join(_SCHEMAS)}", "schema-version"
            )
        top.allow_keys(*(key for key in top.values if key not in ("_", "project", "build", "io")))
        if version == "0.1":
            schema.allow_keys(*schema.values)
            top.table("project").allow_keys(*_PROJECT)
            own = top.table("build")
            io = top.table("io")
            io.allow_keys(*io.values)
            if io.has("buildpacks"):
                _warn_of_schema(io, "buildpacks", "0.2", warn)
            env = own.tables("env")
            refused = {"buildpacks": "group"}
        else:
            schema.allow_keys(*_PROJECT)
            top.allow_keys("project", "build")
            if any(
                key in top.mapping("build") for key in ("exclude", "include", "env", "buildpacks", "builder")
            ):
                _warn_of_schema(top, "build", "0.1", warn)
            io = top.table("io")
            io.allow_keys(*io.values)
            own = io.table("buildpacks")
            # The second spelling is of before `build.env`, and in use.
            env = own.table("build").tables("env") or own.table("env").tables("build")
            refused = {"group": "group", "pre": "group", "post": "group"}
        for key, setting in {**refused, "builder": "builder"}.items():
            if own.has(key) and setting not in overridden:
                own.add_issue(_REFUSED[setting].format(own.full_key(key)), key)
        if own.has("include") and own.has("exclude"):
            own.add_issue("include and exclude cannot both be there", "include")
        value = cls(own.texts("exclude"), own.texts("include"), _env(env))
        _check(own, value)
        top.finish()
        return value

    def excluded_paths(self, app: Path) -> tuple[str, ...]:
        """The paths below `app` that are not part of the source: what never is, and what the patterns say.

        What is below a directory that is left out is not listed. The last pattern that matches a path
        decides, also for a path below a directory that an earlier pattern matches (as in pack, other than in
        Git). A directory with something in it that is part of the source is itself part of it.
        """
        top = [name for name in ALWAYS_EXCLUDED if os.path.lexists(app / name)]
        patterns = self.exclude or self.include
        if not patterns:
            return tuple(top)
        return (
            *top,
            *_find_excluded(str(app), _Patterns.compile(patterns), is_include=bool(self.include), top=top),
        )


_REFUSED = {
    "group": "{}: buildpacks in project.toml are not supported yet: name them with --buildpack",
    "builder": "{}: a builder in project.toml is not supported yet: name it with --builder",
}


def _warn_of_schema(table: Table, key: str, version: str, warn: Warn | None) -> None:
    """Says that a table is not read, because schema `version` has it and the file is of another."""
    if warn is not None:
        fix = f'it belongs to another schema version: write schema-version = "{version}" in [_]'
        warn(table.locate(f"{table.full_key(key)} is ignored: {fix}", key))


def _env(entries: Sequence[Table]) -> dict[str, str]:
    found = {}
    for entry in entries:
        name = entry.text("name", required=True)
        if "=" in name or "\0" in name or "/" in name or name in (".", ".."):
            entry.add_issue(f"{name!r} cannot be the name of a variable", "name")
        found[name] = entry.text("value")
    return found


def _check(own: Table, project: Project) -> None:
    for key, patterns in (("exclude", project.exclude), ("include", project.include)):
        for pattern in patterns:
            try:
                _Patterns.compile([pattern])
            except ValueError as error:
                own.add_issue(f"{pattern!r} is not a pattern of a .gitignore: {error}", key)


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns as in a .gitignore. `rules` are the last first; each is a match and whether it means or spares
    what it matches.
    """

    rules: tuple[tuple[Callable[[str], object], bool], ...]

    @classmethod
    def compile(cls, patterns: Sequence[str]) -> Self:
        """Raises ValueError for what is not a pattern."""
        from pathspec import GitIgnoreSpec  # slow to import, and few sources have patterns

        found = reversed(GitIgnoreSpec.from_lines(patterns).patterns)
        return cls(tuple((each.regex.match, bool(each.include)) for each in found if each.regex is not None))

    def matches(self, path: str) -> bool:
        """Whether the last pattern that matches a path means it; the path of a directory ends with `/`."""
        return next((means for match, means in self.rules if match(path)), False)

    def has_exceptions(self) -> bool:
        """Whether something below a directory that is meant may not be meant itself."""
        return not all(means for _, means in self.rules)


def _find_excluded(app: str, patterns: _Patterns, *, is_include: bool, top: Sequence[str]) -> Sequence[str]:
    """The paths that are left out, without those below another one; `top` are not looked at."""
    found: list[tuple[str, str, bool]] = []  # every path, the directory it is in, and whether it is left out
    waiting, spare = [""], patterns.has_exceptions()
    while waiting:
        above = waiting.pop()
        try:
            entries = os.scandir(f"{app}/{above}")
        except OSError:  # it has gone; or it cannot be read, which is said when it is copied or packed
            continue
        with entries:
            for entry in entries:
                path = f"{above}/{entry.name}" if above else entry.name
                if path in top:
                    continue
                is_directory = entry.is_dir(follow_symlinks=False)
                meant = patterns.matches(f"{path}/" if is_directory else path)
                found.append((path, above, meant is not is_include))
                if is_directory and (spare or not meant):
                    waiting.append(path)
    # A directory stands before what is in it.
    needed: set[str] = set()
    left_out: set[str] = set()
    for path, above, is_out in reversed(found):
        if is_out and path not in needed:
            left_out.add(path)
        else:
            needed.add(above)
    return [path for path, above, _ in found if path in left_out and above not in left_out]
