"""Chooses the Yarn for a project, and provides it as a layer for the build.

Called by `managers`. A release in the source (`yarnPath`) wins, as in Yarn itself. Then package.json decides,
then the Yarn that wrote yarn.lock, then Node.js (`yarn.toml`). Yarn 1 and its successors use the same name
for different lockfiles; only the keys of both are read.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field, replace

from .. import versions
from ..project import Project
from ..runtime import Runtime
from ..versions import major
from . import port, tool, yarn_settings
from .choice import Choice
from .tool import Package, Tool

NAME = "yarn.lock"
_METADATA = "__metadata:"
_FIELDS = ("version", "cacheKey", "resolution")
# A quote that is not closed goes on to the end of the line.
_DESCRIPTOR = re.compile(r'"((?:[^"\\]|\\.)*)"?|([^",\s:][^",\s]*)')


@dataclass(frozen=True, slots=True)
class YarnLock:
    """A lockfile: its descriptors (`ms@^2.1.0`) and the resolution of each, empty for Yarn 1.

    `form` is empty for a file without entries. Only the newer form has `version` and `cache_key`.
    """

    form: Literal["classic", "berry", ""] = ""
    version: int = 0
    cache_key: str = ""
    resolutions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Reads `directory`/yarn.lock, which may be missing; InputError for merge conflicts in it."""
        path = directory / NAME
        return cls.parse(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else cls()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text of a lockfile."""
        metadata: dict[str, str] = {}
        settled: dict[str, str] = {}
        names: list[str] = []
        is_berry = False
        port.refuse_merge_conflicts(
            text, name=NAME, fix=f"run `yarn install`, which resolves them, and commit {NAME}"
        )
        for line in text.splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            if not line[0].isspace():
                is_metadata = line.rstrip() == _METADATA
                is_berry = is_berry or is_metadata
                names = [] if is_metadata else list(_descriptors(line))
                settled |= dict.fromkeys(names, "")
            elif found := _field(line):
                name, value = found
                if not names:
                    metadata.setdefault(name, value)
                elif name == "resolution":
                    settled |= dict.fromkeys(names, value)
        version = metadata.get("version", "")
        return cls(
            form="berry" if is_berry else "classic" if settled or "yarn lockfile v1" in text else "",
            version=int(version[:9]) if version.isdecimal() else 0,
            cache_key=re.split(r"\D", metadata.get("cacheKey", ""))[0],
            resolutions=settled,
        )

    def find_changes(self, newer: YarnLock) -> list[str]:
        """The descriptors that the lockfile `newer` of the same source adds or resolves differently."""
        return [name for name, said in newer.resolutions.items() if self.resolutions.get(name) != said]


def _field(line: str) -> tuple[str, str] | None:
    """The name and value of a line such as ` version: 8` or ` version "1.2.3"`, if this module reads that
    name.
    """
    name, _, rest = line.strip().partition(" ")
    name, value = name.removesuffix(":"), rest.strip()
    if value[:1] == '"':
        value = value[1:].removesuffix('"')
    return (name, value) if name in _FIELDS and value and '"' not in value else None


def _descriptors(line: str) -> Iterator[str]:
    """The descriptors of a line such as `"a@^1", b@2:` or `"a@npm:^1, a@npm:1.2.0":`."""
    for quoted, plain in _DESCRIPTOR.findall(line.rstrip().removesuffix(":")):
        for name in (quoted or plain).split(", "):
            if name.strip() and name.strip() != "?":
                yield name.strip()


CLASSIC = Package("yarn", {"yarn": "bin/yarn.js", "yarnpkg": "bin/yarn.js"})
# corepack, which writes the hash into package.json, takes that of the program and not of its archive.
BERRY = Package("@yarnpkg/cli-dist", {"yarn": "bin/yarn.js", "yarnpkg": "bin/yarn.js"}, hashed="bin/yarn.js")

_NAMED = re.compile(r"yarn-(\d+\.\d+\.\d+(?:-[\w.]+)?)\.c?js")
_PRINTED = re.compile(r"^(\d+\.\d+\.\d+(?:-[\w.]+)?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Release:
    """A Yarn in its layer, and its source in words."""

    tool: Tool
    source: str

    @property
    def is_classic(self) -> bool:
        """Whether it is Yarn 1."""
        return major(self.tool.version) < 2


def provide_yarn(context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice) -> Release:
    """Makes or keeps the layer `yarn`.

    Raises InputError if package.json, the lockfile and the release contradict each other, and the errors of
    `tool.provide_tool`.
    """
    lock = YarnLock.read(project.directory)
    path = yarn_settings.YarnSettings.read(project.directory).release
    if path:
        release = Release(_provide_committed(context, project, runtime, path), f"yarnPath: {path}")
    else:
        refuse_newer_lock(lock, choice)
        range_, source = _choose_range(lock, choice, runtime.version)
        wanted = replace(choice, range=range_, source=source)
        package = CLASSIC if _is_classic(range_) else BERRY
        release = Release(tool.provide_tool(context, package, wanted, range=range_), source)
    _check_kind(lock, release)
    return release


def _provide_committed(context: sdk.BuildContext, project: Project, runtime: Runtime, path: str) -> Tool:
    """Makes a layer of the release in the source, which may not be executable in its place."""
    inside = PurePosixPath(path)
    file = project.directory / inside
    if inside.is_absolute() or ".." in inside.parts or not file.is_file():
        raise InputError(
            f"yarnPath names a Yarn that is not in the source: {path}",
            fix="commit it (`yarn set version`), or take yarnPath out of the settings",
        )
    last = context.recall("yarn")
    key = {"yarnPath": project.digest(path)}
    version = last.get("version", "") if last.get("yarnPath") == key["yarnPath"] else ""
    version = version or _read_version(context, runtime, file)
    layer = context.layer("yarn", key=key, build=True, cache=True, facts={**key, "version": version})
    if not layer.kept:
        program = layer.path / "package" / "yarn.cjs"
        program.parent.mkdir()
        shutil.copyfile(file, program)
        program.chmod(0o755)
        (layer.path / "bin").mkdir()
        for command in BERRY.commands:
            (layer.path / "bin" / command).symlink_to(PurePosixPath("../package") / program.name)
    return Tool(version, layer.path)


def _read_version(context: sdk.BuildContext, runtime: Runtime, file: Path) -> str:
    named = _NAMED.fullmatch(file.name)
    if named:
        return named[1]
    env = {**runtime.env, "YARN_IGNORE_PATH": "1", "NODE_OPTIONS": ""}
    try:
        printed = _PRINTED.search(context.capture(["node", str(file), "--version"], env=env))
    except sdk.CommandFailed as failure:
        why = next((line for line in failure.why.splitlines() if "Error" in line), failure.why)
        raise InputError(f"the Yarn of the source does not run: {file.name}", why=why) from failure
    if printed is None:
        raise InputError(f"yarnPath names a file that is no Yarn: {file.name}")
    return printed[1]


def _choose_range(lock: YarnLock, choice: Choice, node: str) -> tuple[str, str]:
    """The range of versions to choose from, which has only one kind of Yarn, and its source."""
    data = _read_table()
    if not choice.range:
        return _range_for_lock(lock, choice, node, data)
    if versions.is_version(choice.range) or _is_classic(choice.range):
        return choice.range, choice.source
    if versions.allows(choice.range, data["classic"], loose=True) and lock.form != "berry":
        return data["classic"], choice.source
    # Of a range with several kinds: a version that leaves the lock as it is.
    fitting = f">=2.0.0 {_lock_range(lock, data)}".strip()
    narrow = " || ".join(f"{part.strip()} {fitting}" for part in choice.range.split("||"))
    source = f"{choice.source}, and {NAME} has version {lock.version}" if lock.form else choice.source
    return (narrow if versions.is_range(narrow) else choice.range), source


def _is_classic(range_: str) -> bool:
    """Whether a range has only versions of Yarn 1."""
    import nodesemver

    parts = nodesemver.make_range(range_, loose=True).set
    return all(any(_ends_below_2(comparator) for comparator in part) for part in parts)


def _ends_below_2(comparator: Any) -> bool:
    import nodesemver

    if comparator.operator == "<":
        return bool(nodesemver.lte(str(comparator.semver), "2.0.0", loose=True))
    return comparator.operator in ("", "<=") and comparator.semver.major < 2


def _range_for_lock(lock: YarnLock, choice: Choice, node: str, data: Mapping[str, Any]) -> tuple[str, str]:
    if lock.form == "classic":
        return data["classic"], f"{NAME} is of Yarn 1"
    fitting = _lock_range(lock, data) if lock.form else ""
    if fitting:
        return fitting, f"{NAME} has version {lock.version}"
    fits = (line["yarn"] for line in data["nodes"] if versions.allows(line["node"], node, loose=True))
    return next(fits, data["classic"]), f"{choice.source}; the one that fits Node.js {node}"


def _lock_range(lock: YarnLock, data: Mapping[str, Any]) -> str:
    """The versions that write lockfiles of this form; empty if it is newer than the table."""
    for line in data["locks"]:
        if line["version"] == lock.version and line.get("cache_key", lock.cache_key) == lock.cache_key:
            return str(line["yarn"])
    return ""


def refuse_newer_lock(lock: YarnLock, choice: Choice) -> None:
    """Raises InputError for a lockfile that no known Yarn writes, unless package.json names a version."""
    if is_newer_lock(lock) and not versions.is_version(choice.range):
        raise newer_lock_error(lock)


def is_newer_lock(lock: YarnLock) -> bool:
    """Whether a lockfile is newer than those of all known versions of Yarn."""
    return lock.form == "berry" and lock.version > _newest_lock()


def newer_lock_error(lock: YarnLock) -> InputError:
    """The error for such a lockfile, if the chosen Yarn cannot read it."""
    return InputError(
        f"{NAME} has version {lock.version}, which no Yarn that this buildpack knows writes",
        why=f"the newest it knows is {_newest_lock()}",
        fix='name the Yarn that wrote it in package.json: "packageManager": "yarn@<version>"',
    )


def _newest_lock() -> int:
    return max(int(line["version"]) for line in _read_table()["locks"])


def _check_kind(lock: YarnLock, release: Release) -> None:
    """Raises InputError for a lockfile that this Yarn would write in another form."""
    if not lock.form or (lock.form == "classic") == release.is_classic:
        return
    form = "Yarn 1" if lock.form == "classic" else "Yarn 2 or newer"
    raise InputError(
        f"{NAME} is of {form}, but Yarn {release.tool.version} is asked for",
        why=release.source,
        fix=f"run `yarn install` with that Yarn and commit {NAME}, or ask for another in package.json "
        "packageManager",
    )


def _read_table() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parents[1] / "yarn.toml").read_text())
