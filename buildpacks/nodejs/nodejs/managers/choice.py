"""Finds which package manager an application uses, in which version, and where it says so.

Only looks which lockfiles exist. Called by `buildpack`. If there are several lockfiles, the manager in
package.json wins, else the first in `LOCKS`. A warning names the others.
"""

from __future__ import annotations

import re
from typing import Self

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import versions
from ..project import Project

LOCKS = {
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
    "npm-shrinkwrap.json": "npm",
    "package-lock.json": "npm",
}
"""The manager that each lock file belongs to, the one that wins first."""

# Files that only one manager reads.
_SETTINGS = {"pnpm-workspace.yaml": "pnpm", ".yarnrc.yml": "yarn"}

MANAGERS = ("npm", "yarn", "pnpm", "bun")
_FIELD = re.compile(r"(?P<name>[a-z]+)@(?P<version>[^+]+)(?:\+(?P<digest>[a-z0-9]+\.[0-9a-f]+))?")


@dataclass(frozen=True, slots=True)
class Choice:
    """A manager by its command (`npm`, `yarn`, `pnpm`, `bun`), a range of its versions, and why.

    `range` is empty if any version that fits Node.js will do. `digest` is the hash of its archive in
    `packageManager`, as `<algorithm>.<hex>`, or empty. `lock` is the lockfile that is read, if there is one;
    `unread` has the lockfiles of other managers.
    """

    manager: str
    source: str
    range: str = ""
    digest: str = ""
    lock: str = ""
    unread_locks: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where to write another version."""
        field = self.source.partition(":")[0]
        return field if field.startswith("package.json ") and self.range else "package.json packageManager"

    @classmethod
    def of(cls, project: Project) -> Self:
        """Uses package.json's `packageManager` or `devEngines`, else the manager of the lockfile, else npm.

        Without a lockfile, a file that only one manager reads decides, else the only manager in `engines`. A
        version that is missing comes from `engines`, for Bun also from a file. Raises InputError for a field
        that names no manager or no version.
        """
        there = [name for name in LOCKS if (project.directory / name).is_file()]
        manager, range_, digest, source = _named_in_manifest(project)
        if not manager and there:
            manager, source = LOCKS[there[0]], f"there is {there[0]}"
        if not manager:
            manager, source = _without_lock(project)
        if not manager:
            manager, source = "npm", "package.json has no packageManager, and there is no lock"
        if not range_:
            range_, said = _range_in_engines(project, manager)
            source = said or source
        own = [name for name in there if LOCKS[name] == manager]
        return cls(
            manager,
            source,
            range=range_,
            digest=digest,
            lock=own[0] if own else "",
            unread_locks=tuple(name for name in there if name not in own),
        )

    @classmethod
    def of_bun(cls, project: Project, above: Project | None = None) -> Self:
        """The Bun that runs an application with modules of another manager; `above` is its workspace."""
        range_, said = _range_in_engines(project, "bun")
        if not said and above is not None:
            range_, said = _range_in_engines(above, "bun")
        return cls("bun", said or "the newest", range=range_)


def _range_in_engines(project: Project, manager: str) -> tuple[str, str]:
    """The range in `engines`, for Bun also in `devEngines.runtime` or a file, and its place; else empty."""
    said = {f"engines.{manager}": project.engine(manager)}
    if manager == "bun":
        said["devEngines.runtime"] = project.runtimes.get("bun", "")
    for place, text in said.items():
        if text:
            return _check_range(text, f"package.json {place}"), f"package.json {place}: {text}"
    if manager == "bun" and (file := versions.read_bun_version(project)):
        newest = file.text in ("latest", "stable")
        return "" if newest else _check_range(file.text, file.source), str(file)
    return "", ""


def _without_lock(project: Project) -> tuple[str, str]:
    """The manager that a project without a lockfile asks for in another place, and that place; else empty."""
    for name, manager in _SETTINGS.items():
        if (project.directory / name).is_file():
            return manager, f"there is {name}"
    said = {name: project.engine(name) for name in MANAGERS}
    asked = [name for name, text in said.items() if text and versions.is_range(text)]
    # Bun is a runtime too: a package that runs on both names it beside Node.js.
    if len(asked) == 1 and (asked != ["bun"] or project.runner == "bun"):
        return asked[0], f"package.json engines.{asked[0]}: {said[asked[0]]}"
    return "", ""


def _named_in_manifest(project: Project) -> tuple[str, str, str, str]:
    """The manager, range, digest and source that package.json names; empty if it names none."""
    field = project.manifest.get("packageManager")
    if field is not None:
        match = _FIELD.fullmatch(field) if isinstance(field, str) else None
        if not match or match["name"] not in MANAGERS or not versions.is_version(match["version"]):
            raise InputError(
                f"package.json packageManager names no package manager and version: {field}",
                why=f"this buildpack knows {', '.join(MANAGERS)}",
                fix='write it as in "packageManager": "pnpm@9.15.9"',
            )
        return match["name"], match["version"], match["digest"] or "", f"package.json packageManager: {field}"
    engine = project.manifest.get("devEngines")
    said = engine.get("packageManager") if isinstance(engine, dict) else None
    for wanted in said if isinstance(said, list) else [said]:
        if not isinstance(wanted, dict) or wanted.get("name") not in MANAGERS:
            continue
        version = str(wanted.get("version", ""))
        source = f"package.json devEngines.packageManager: {wanted['name']} {version}".rstrip()
        return (
            wanted["name"],
            _check_range(version, "package.json devEngines.packageManager") if version else "",
            "",
            source,
        )
    return "", "", "", ""


def _check_range(text: str, source: str) -> str:
    if not versions.is_range(text):
        raise InputError(
            f"{source} is not a range of versions: {text}",
            fix='write it as npm knows it: "9", "^9.12.0", ">=9 <11"',
        )
    return text
