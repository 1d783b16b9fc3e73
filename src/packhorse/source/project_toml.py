"""① project.toml: which files are part of the source, the builder, the buildpacks, and variables for them.

(extensions/project-descriptor.md, schemas 0.1 to 0.3.) Called by `build.plan`. `build.buildpacks`
finds what the entries name.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from packhorse.base import files
from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.toml import Table, Warn
from packhorse.errors import InputError

NAME = "project.toml"
"""The file's name, in the top directory of the source."""

IGNORE_FILES = (".packhorseignore", ".dockerignore")
"""Files with patterns for a source whose project.toml has none. The first that is there is read."""

ALWAYS_EXCLUDED = (".git",)
"""What is never part of the source: history changes without the source changing, and can hold secrets."""

_SCHEMAS = ("0.1", "0.2", "0.3")
_PROJECT = (
    *("schema-version", "id", "name", "version", "authors", "documentation-url", "source-url", "licenses"),
    "metadata",
)
_KEYS = frozenset(("exclude", "include", "env", "buildpacks", "builder"))
"""The keys of [build] in schema 0.1."""

_SHELL = "/bin/sh"
_NO_VERSION = "0.0.0"
_LONGEST_NAME = 255  # bytes, in file systems


@dataclass(frozen=True, slots=True)
class Script:
    """An inline buildpack: its Buildpack API, the text of its bin/build, and the program that runs it.

    `where` has file, line and key of the API for messages.
    """

    api: str
    inline: str
    shell: str = _SHELL
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class BuildpackEntry:
    """One buildpack of a group: the builder's by `id` and `version`, the one at `uri`, or a `script`.

    A relative `uri` starts at the directory of `descriptor`, the file that has the entry. `where` has file,
    line and key for messages.
    """

    id: str = ""
    version: str = ""
    uri: str = ""
    script: Script | None = None
    descriptor: Path = field(default=Path(NAME), compare=False)
    where: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The buildpack as `--buildpack` names it; an inline buildpack by its ID and version."""
        if self.uri:
            is_path = not self.uri.startswith(("urn:", "from=")) and ":/" not in self.uri
            return str(self.descriptor.parent / self.uri) if is_path else self.uri
        return f"{self.id}@{self.version}" if self.version else self.id


@dataclass(frozen=True, slots=True)
class Project:
    """One project.toml. `exclude` and `include` are patterns as in a .gitignore; one of them is empty.

    `group` replaces the builder's order; `pre` and `post` go around each of its groups. `ignore_file` is the
    file that the patterns come from, "" for project.toml. `patterns_where` and `builder_where` have file,
    line and key for messages.
    """

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    builder: str = ""
    group: tuple[BuildpackEntry, ...] = ()
    pre: tuple[BuildpackEntry, ...] = ()
    post: tuple[BuildpackEntry, ...] = ()
    ignore_file: str = ""
    patterns_where: str = field(default="", compare=False)
    builder_where: str = field(default="", compare=False)

    @classmethod
    def read(cls, app: Path, *, descriptor: Path | None = None, warn: Warn | None = None) -> Self:
        """Reads `descriptor`, or the file of a source directory, which may be missing.

        A file without include and exclude takes the patterns of an ignore file (`IGNORE_FILES`). See `parse`;
        raises InputError for a file that cannot be read too.
        """
        path = app / NAME if descriptor is None else descriptor
        project = cls()
        if descriptor is not None or os.path.lexists(path):
            project = cls.parse(_read(path), str(path), path=path.absolute(), warn=warn)
        if project.exclude or project.include:
            return project
        return project._with_ignore_file(app, warn)

    @classmethod
    def parse(cls, data: bytes, source: str, *, path: Path = Path(NAME), warn: Warn | None = None) -> Self:
        """Reads a project.toml, which is at `path`; raises InputError with every issue in it."""
        top = Table.read(data, source, warn)
        schema = top.table("_")
        version = schema.text("schema-version") or "0.1"
        if version not in _SCHEMAS:
            known = ", ".join(_SCHEMAS)
            schema.add_issue(f"_.schema-version is {version!r}, not one of {known}", "schema-version")
        if schema.issues:  # The version decides what the other keys mean.
            top.finish()
        top.allow_keys(*(key for key in top.values if key not in ("_", "project", "build", "io")))
        if version == "0.1":
            schema.allow_keys(*schema.values)
            top.table("project").allow_keys(*_PROJECT)
            own = top.table("build")
            io = top.table("io")
            io.allow_keys(*_other_tools(io))
            if io.has("buildpacks"):
                _warn_of_schema(io, "buildpacks", "0.2", warn)
            env = own.tables("env")
            group = own.tables("buildpacks")
            pre: tuple[Table, ...] = ()
            post: tuple[Table, ...] = ()
        else:
            schema.allow_keys(*_PROJECT)
            top.allow_keys("project", "build")
            other = top.values.get("build")  # of another tool, so of any type
            if isinstance(other, dict) and other.keys() & _KEYS:
                _warn_of_schema(top, "build", "0.1", warn)
            io = top.table("io")
            io.allow_keys(*_other_tools(io))
            own = io.table("buildpacks")
            # The second spelling is of before `build.env`, and in use.
            env = own.table("build").tables("env") or own.table("env").tables("build")
            group = own.tables("group")
            pre, post = own.table("pre").tables("group"), own.table("post").tables("group")
        if own.has("include") and own.has("exclude"):
            words = f"{own.full_key('include')} and exclude cannot both be there: leave one out"
            own.add_issue(words, "include")
        patterns_key = "include" if own.has("include") else "exclude"
        value = cls(
            patterns_where=own.locate(own.full_key(patterns_key), patterns_key),
            builder_where=own.locate(own.full_key("builder"), "builder"),
            exclude=own.texts("exclude"),
            include=own.texts("include"),
            env=_env(env),
            builder=own.text("builder", required=own.has("builder")),
            group=tuple(_read_entry(each, path) for each in group),
            pre=tuple(_read_entry(each, path) for each in pre),
            post=tuple(_read_entry(each, path) for each in post),
        )
        _check(own, value)
        _check_scripts((*group, *pre, *post), (*value.group, *value.pre, *value.post))
        top.finish()
        return value

    def _with_ignore_file(self, app: Path, warn: Warn | None) -> Self:
        """The project with the patterns of the first ignore file of the source, and says so."""
        name = next((name for name in IGNORE_FILES if os.path.lexists(app / name)), None)
        if name is None:
            return self
        path = app / name
        patterns = _read_ignore_file(_read(path), path, is_docker=name == ".dockerignore")
        if patterns and warn is not None:
            warn(
                f"{path}: its patterns decide what is left out of the source, since {NAME} has no include or "
                f"exclude"
                + (f" (an empty {IGNORE_FILES[0]} turns that off)" if name != IGNORE_FILES[0] else "")
            )
        return replace(self, exclude=patterns, ignore_file=name if patterns else "")

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
        found = _find_excluded(str(app), _Patterns.compile(patterns), is_include=bool(self.include), top=top)
        if {path.name for path in app.iterdir()} <= {*top, *found}:
            key = "include" if self.include else "exclude"
            raise InputError(
                f"{self.ignore_file or self.patterns_where or NAME} leaves out the whole source",
                why=f"no file of {app} is left after {self.ignore_file or key}: {', '.join(patterns)}"[:1000],
                fix="correct the patterns"
                + (f", or add an empty {IGNORE_FILES[0]}" if self.ignore_file == IGNORE_FILES[1] else ""),
            )
        return (*top, *found)


def _read(path: Path) -> bytes:
    if not files.is_file(path):
        raise InputError(
            f"{path} cannot be read",
            why="it leads to no file that this user may read",
            fix="correct or remove it",
        )
    return files.read(path)


def _read_entry(entry: Table, path: Path) -> BuildpackEntry:
    """One entry of a group; it is named in exactly one way (J-006)."""
    before = len(entry.issues)
    script = entry.table("script") if entry.has("script") else None
    is_table = len(entry.issues) == before
    key = "uri" if entry.has("uri") else "id"
    value = BuildpackEntry(
        id=entry.text("id", required=entry.has("id")),
        version=entry.text("version"),
        uri=entry.text("uri", required=entry.has("uri")),
        script=_read_script(script) if script is not None and is_table else None,
        descriptor=path,
        where=entry.locate(entry.full_key(key), key),
    )
    if script is not None and value.uri:
        entry.add_issue(f"{entry.full_key('uri')} and script cannot both be there: leave one out", "uri")
    if value.uri and value.version:
        entry.add_issue(f"{entry.full_key('uri')} and version cannot both be there: leave one out", "uri")
    if not entry.has("id") and (script is not None or not entry.has("uri")):
        words = "a script needs an id" if script is not None else "an entry has an id, or a uri"
        entry.add_issue(f"{entry.full_key('id')} is missing: {words}")
    if script is not None:
        return replace(value, version=value.version or _NO_VERSION)
    return value


def _read_script(script: Table) -> Script:
    shell = script.text("shell") or _SHELL
    if "\n" in shell or "\0" in shell or not shell.startswith("/"):
        script.add_issue(
            f"{script.full_key('shell')} is {shell!r}, not the absolute path of a program", "shell"
        )
    where = script.locate(script.full_key("api"), "api")
    return Script(script.text("api", required=True), script.text("inline", required=True), shell, where)


def _check_scripts(tables: Sequence[Table], entries: Sequence[BuildpackEntry]) -> None:
    """Notes inline buildpacks that the sandbox could not keep apart."""
    seen = set()
    for table, entry in zip(tables, entries, strict=True):
        if entry.script is None:
            continue
        if entry.name in seen:
            what = f"{table.full_key('id')}: two inline buildpacks are {entry.name}"
            table.add_issue(f"{what}: give each an id of its own", "id")
        seen.add(entry.name)


def _read_ignore_file(data: bytes, path: Path, *, is_docker: bool) -> tuple[str, ...]:
    """The patterns of an ignore file, as those of a .gitignore; raises InputError with the wrong lines."""
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text", why=str(error)) from error
    patterns, issues = [], []
    for number, line in enumerate(lines, 1):
        pattern = _translate_docker_pattern(line) if is_docker else line
        if not pattern.strip() or pattern.startswith("#"):
            continue
        try:
            _Patterns.compile([pattern])
        except ValueError as error:
            issues.append(f"{path}:{number}: {line!r} is not a pattern: {error}")
        else:
            patterns.append(pattern)
    if issues:
        raise InputError(f"{path} cannot be used", issues=issues, fix="correct or remove it")
    return tuple(patterns)


def _translate_docker_pattern(line: str) -> str:
    """A pattern of a .dockerignore as one of a .gitignore: Docker's start at the top directory."""
    if line.startswith("#"):
        return line
    line = line.strip()
    exception, pattern = ("!", line[1:].strip()) if line.startswith("!") else ("", line)
    pattern = os.path.normpath(f"/{pattern}").lstrip("/") if pattern else ""
    if not pattern:  # Docker takes "." and "/" for nothing, too
        return ""
    # Docker's `**.pem` is any path that ends so. Git has `**` only as a whole part of a path.
    pattern = re.sub(r"(^|/)\*\*(?=[^/*])", r"\1**/*", pattern)
    return f"{exception}/{pattern}"


def _other_tools(io: Table) -> list[str]:
    """The tables of other tools. One whose name begins like ours is rather a mistake in writing."""
    return [key for key in io.values if not key.lower().startswith("buildpack")]


def _warn_of_schema(table: Table, key: str, version: str, warn: Warn | None) -> None:
    """Says that a table is not read, because schema `version` has it and the file is of another."""
    if warn is not None:
        fix = f'it belongs to another schema version: write schema-version = "{version}" in [_]'
        warn(table.locate(f"{table.full_key(key)} is ignored: {fix}", key))


def _env(entries: Sequence[Table]) -> dict[str, str]:
    found = {}
    for entry in entries:
        name = entry.text("name", required=True)
        # Buildpacks find the variable in a file of this name.
        is_file_name = name not in (".", "..") and "/" not in name and len(name.encode()) <= _LONGEST_NAME
        if "=" in name or "\0" in name or not is_file_name:
            what = f"{entry.full_key('name')}: {name[:300]!r} cannot be the name of a variable"
            entry.add_issue(
                f"{what}, which is a file's name of at most {_LONGEST_NAME} bytes without '='", "name"
            )
        elif name in found:
            entry.add_warning(
                f"{entry.full_key('name')}: {name} is there twice, and the last value counts", "name"
            )
        found[name] = entry.text("value")
        if "\0" in found[name]:
            entry.add_issue(
                f"{entry.full_key('value')} has a NUL character, which no variable can have", "value"
            )
    return found


def _check(own: Table, project: Project) -> None:
    for key, patterns in (("exclude", project.exclude), ("include", project.include)):
        for pattern in patterns:
            try:
                _Patterns.compile([pattern])
            except ValueError as error:
                what = f"{own.full_key(key)}: {pattern!r} is not a pattern of a .gitignore"
                own.add_issue(f"{what}: {error}", key)


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns as in a .gitignore. `rules` are the last first; each is a search, whether it takes the path of
    a directory with its `/`, and whether it means or spares what it finds.
    """

    rules: tuple[tuple[Callable[[str], object], bool, bool], ...]

    @classmethod
    def compile(cls, patterns: Sequence[str]) -> Self:
        """Raises ValueError for what is not a pattern."""
        from pathspec import GitIgnoreSpec  # slow to import, and few sources have patterns

        rules = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of Python, for a set such as [[]
            try:
                for each in GitIgnoreSpec.from_lines(map(_adapt_pattern, patterns)).patterns:
                    if each.regex is not None:
                        # In Git no set matches a slash.
                        regex = re.compile(each.regex.pattern.replace("[^", "[^/"))
                        rules.append((regex.search, bool(regex.groups), bool(each.include)))
            except re.error as error:  # a set such as [z-a], which pathspec hands on as it is
                raise ValueError(error.msg) from error
        return cls(tuple(reversed(rules)))

    def matches(self, path: str, *, is_directory: bool) -> bool:
        """Whether the last pattern that matches a path means it."""
        path = path.replace("\n", _NEWLINE)
        marked = f"{path}/" if is_directory else path
        return next(
            (means for search, is_marked, means in self.rules if search(marked if is_marked else path)), False
        )

    def has_exceptions(self) -> bool:
        """Whether something below a directory that is meant may not be meant itself."""
        return not all(means for _, _, means in self.rules)


_NEWLINE = "\0"
"""Stands for a newline in patterns and paths: in regular expressions a newline has a meaning of its own."""

_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9a-fA-F",
    "blank": " \t",
}


def _adapt_pattern(pattern: str) -> str:
    """Returns the pattern that means to pathspec what `pattern` means to Git. Raises ValueError."""
    pattern = re.sub(r"\[:([a-z]+):\]", lambda name: _CLASSES.get(name[1], name[0]), pattern)
    if "[:" in pattern:
        raise ValueError(f"of the classes [:…:], only {', '.join(_CLASSES)} are supported")
    # To pathspec `a/**/` is `a/`. To Git it is each directory below a.
    return re.sub(r"(?<=[^/])/\*\*/\s*$", "/**/*/", pattern).replace("\n", _NEWLINE)


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
                meant = patterns.matches(path, is_directory=is_directory)
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
