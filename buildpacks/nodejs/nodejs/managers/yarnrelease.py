"""Which Yarn a project uses, as a layer of its own for the build.

On the arrows source → plan and plan → layers. Called by `managers.provide`. A release that comes with the
source (`yarnPath`) wins, as in Yarn itself; then what package.json says; then what the lock was written by;
then what fits Node.js (`yarn.toml`).
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, replace

from .. import ranges
from ..project import Project
from ..releases import major
from ..runtime import Runtime
from . import tool, yarnrc
from .choice import Choice
from .tool import Package, Tool
from .yarnlock import NAME, Lock

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


def provide(context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice) -> Release:
    """Makes or keeps the layer `yarn`.

    Raises InputError where package.json, the lock and the release contradict each other, and what
    `tool.provide` raises.
    """
    lock = Lock.read(project.directory)
    path = yarnrc.Settings.read(project.directory).release
    if path:
        release = Release(_committed(context, project, runtime, path), f"yarnPath: {path}")
    else:
        refuse_newer(lock, choice)
        range_, source = _range(lock, choice, runtime.version)
        wanted = replace(choice, range=range_, source=source)
        package = CLASSIC if _is_classic(range_) else BERRY
        release = Release(tool.provide(context, package, wanted, range=range_), source)
    _compare(lock, release)
    return release


def _committed(context: sdk.BuildContext, project: Project, runtime: Runtime, path: str) -> Tool:
    """A release of the source as a layer: it may not be executable where it is."""
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
    version = version or _version(context, runtime, file)
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


def _version(context: sdk.BuildContext, runtime: Runtime, file: Path) -> str:
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


def _range(lock: Lock, choice: Choice, node: str) -> tuple[str, str]:
    """The range of versions to choose from, of one kind of Yarn alone, and its source."""
    data = _data()
    if not choice.range:
        return _of_lock(lock, choice, node, data)
    if ranges.is_version(choice.range) or _is_classic(choice.range):
        return choice.range, choice.source
    if ranges.allows(choice.range, data["classic"], loose=True) and lock.form != "berry":
        return data["classic"], choice.source
    # Of a range with several kinds: a version that leaves the lock as it is.
    fitting = f">=2.0.0 {_lock_range(lock, data)}".strip()
    narrow = " || ".join(f"{part.strip()} {fitting}" for part in choice.range.split("||"))
    source = f"{choice.source}, and {NAME} has version {lock.version}" if lock.form else choice.source
    return (narrow if ranges.is_range(narrow) else choice.range), source


def _is_classic(range_: str) -> bool:
    """Whether a range has versions of Yarn 1 alone."""
    import nodesemver

    parts = nodesemver.make_range(range_, loose=True).set
    return all(any(_ends_below_2(comparator) for comparator in part) for part in parts)


def _ends_below_2(comparator: Any) -> bool:
    import nodesemver

    if comparator.operator == "<":
        return bool(nodesemver.lte(str(comparator.semver), "2.0.0", loose=True))
    return comparator.operator in ("", "<=") and comparator.semver.major < 2


def _of_lock(lock: Lock, choice: Choice, node: str, data: Mapping[str, Any]) -> tuple[str, str]:
    if lock.form == "classic":
        return data["classic"], f"{NAME} is of Yarn 1"
    fitting = _lock_range(lock, data) if lock.form else ""
    if fitting:
        return fitting, f"{NAME} has version {lock.version}"
    fits = (line["yarn"] for line in data["nodes"] if ranges.allows(line["node"], node, loose=True))
    return next(fits, data["classic"]), f"{choice.source}; the one that fits Node.js {node}"


def _lock_range(lock: Lock, data: Mapping[str, Any]) -> str:
    """The versions that write locks like this one; empty for one that is newer than the table."""
    for line in data["locks"]:
        if line["version"] == lock.version and line.get("cache_key", lock.cache_key) == lock.cache_key:
            return str(line["yarn"])
    return ""


def refuse_newer(lock: Lock, choice: Choice) -> None:
    """Raises InputError for a lock that no Yarn known here writes, unless package.json names one."""
    if is_newer(lock) and not ranges.is_version(choice.range):
        raise newer(lock)


def is_newer(lock: Lock) -> bool:
    """Whether a lock is newer than any that a Yarn known here writes."""
    return lock.form == "berry" and lock.version > _newest()


def newer(lock: Lock) -> InputError:
    """The error for such a lock, where the Yarn that is to read it cannot."""
    return InputError(
        f"{NAME} has version {lock.version}, which no Yarn that this buildpack knows writes",
        why=f"the newest it knows is {_newest()}",
        fix='name the Yarn that wrote it in package.json: "packageManager": "yarn@<version>"',
    )


def _newest() -> int:
    return max(int(line["version"]) for line in _data()["locks"])


def _compare(lock: Lock, release: Release) -> None:
    """Raises InputError for a lock that this Yarn would have to write in another form."""
    if not lock.form or (lock.form == "classic") == release.is_classic:
        return
    form = "Yarn 1" if lock.form == "classic" else "Yarn 2 or newer"
    raise InputError(
        f"{NAME} is of {form}, but Yarn {release.tool.version} is asked for",
        why=release.source,
        fix=f"run `yarn install` with that Yarn and commit {NAME}, or ask for another in package.json "
        "packageManager",
    )


def _data() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parents[1] / "yarn.toml").read_text())
