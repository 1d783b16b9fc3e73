"""Defines what the buildpack needs from a package manager, and what all adapters share.

Called by `modules`, which decides where modules are and what is kept from build to build. The manager decides
how they get there. An adapter is a value: it holds the version to run and the variables to run it with, and
keeps no state between calls.

Shared are: the files that settings name (certificates, hooks, plugins), which an installation elsewhere needs
too; the warning about a missing lockfile; and the error for merge conflicts in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from ..project import Project


@dataclass(frozen=True, slots=True)
class Order:
    """An order to install: below `directory`, which has `package.json`, into `node_modules`.

    `cache` is a directory for downloads that is kept from build to build; None if the installed modules are
    kept. `focus` has the names of the needed workspace members, empty for all. `into` is the directory for
    packages with Plug'n'Play, which has no node_modules.
    """

    directory: Path
    dev: bool
    cache: Path | None = None
    focus: tuple[str, ...] = ()
    into: Path | None = None


class IncrementalInstaller(Protocol):
    """Updates modules of the last build in less time than installing all of them takes."""

    @property
    def follows(self) -> tuple[str, ...]:
        """The names in a layer's key that may have changed since the modules were installed."""

    @property
    def record(self) -> str:
        """The file in node_modules that says what is installed."""

    def install_changes(self, order: Order, record: bytes) -> bool:
        """Updates installed modules with this record to what a new installation would make.

        Returns False if that is not certain or failed; the directory then cannot be used.
        """


class Manager(Protocol):
    """A package manager of one version, ready to run for one project."""

    @property
    def name(self) -> str:
        """As people write it: npm, Yarn, pnpm, Bun."""

    @property
    def command(self) -> str:
        """Its command, which also runs scripts: `npm run build`."""

    @property
    def install_command(self) -> str:
        """The command with which a person installs in a fresh copy of the source: `npm ci`."""

    @property
    def version(self) -> str:
        """The version that runs."""

    @property
    def has_lock(self) -> bool:
        """Whether this manager's lockfile exists."""

    @property
    def env(self) -> Mapping[str, str]:
        """The variables for commands and scripts of the application, with PATH."""

    @property
    def key(self) -> Mapping[str, str]:
        """What the installed files depend on beside package.json: lockfile, settings, patches.

        Readable names with digests or texts, without credentials.
        """

    @property
    def files(self) -> tuple[str, ...]:
        """Files and folders of the project, beside package.json, that an installation elsewhere needs."""

    @property
    def generated_files(self) -> tuple[str, ...]:
        """Files that an installation makes in the project; scripts need them, the image does not."""

    @property
    def linker(self) -> str:
        """How programs find modules: `pnp`, or another linker with node_modules."""

    @property
    def inside_reason(self) -> str:
        """Why this manager has to install inside the application; empty if a layer works."""

    @property
    def slice(self) -> tuple[str, ...]:
        """Globs of the modules if it installs inside the application; they become a layer of the image."""

    def install(self, order: Order) -> None:
        """Installs exactly what the lockfile says; without one, warns and installs the newest that fits.

        Raises InputError if the lockfile does not match, NetworkError, FormatError for a package that is not
        the published one, and BuildpackFailed.
        """

    @property
    def incremental(self) -> IncrementalInstaller | None:
        """Updates what `install` made for an earlier lockfile, if this manager can; else None."""

    def prune(self, order: Order) -> None:
        """Removes the devDependencies from what `install` made; raises as `install` does."""

    def rebuild(self, directory: Path) -> None:
        """Runs the install scripts of modules that came with the source."""


# A path here has no quotes and no white space, and at most 1000 characters.
_PATH_WORD = re.compile(r"""[^\s'"=,:\[\]{}]{3,1000}""")
_CODE = (".js", ".cjs", ".mjs")
# These folders are handled as a whole.
_WHOLE_FOLDERS = (".yarn", "node_modules")


def named_files(project: Project, *settings: str) -> tuple[str, ...]:
    """The files of the project that its `settings` files name, by their paths."""
    found = {path for name in settings for path in _find_named(project.directory, name)}
    return tuple(sorted(found))


def named_code(project: Project, *settings: str) -> dict[str, str]:
    """The digests of programs among `named_files`, because they may decide what is installed."""
    return {path: project.digest(path) for path in named_files(project, *settings) if path.endswith(_CODE)}


def _find_named(directory: Path, name: str) -> Iterator[str]:
    path = directory / name
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.lstrip().startswith(("#", ";", "//")):
            continue
        for word in _PATH_WORD.findall(line):
            inside = PurePosixPath(word.removeprefix("./"))
            is_path = "." in inside.name and not inside.is_absolute() and ".." not in inside.parts
            is_meant = is_path and inside.parts[0] not in _WHOLE_FOLDERS and inside.name != "package.json"
            if is_meant and (directory / inside).is_file():
                yield str(inside)


MODULES_GLOBS = ("node_modules", "*/node_modules", "*/*/node_modules")
"""Globs for modules of a workspace if no lockfile names its projects."""


def warn_of_missing_lock(log: sdk.Log, lock: str, command: str) -> None:
    """Warns that `command` installs the newest versions, because `lock` is missing."""
    log.warning(
        f"there is no {lock}, so the newest versions that fit are installed; "
        f"run `{command} install` and commit the lockfile to get the same versions each time"
    )


_MARKS = ("<<<<<<<", "=======", ">>>>>>>")


def refuse_merge_conflicts(text: str, *, name: str, fix: str) -> None:
    """Raises InputError if `text`, of the file `name`, has the marks of a merge conflict."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_MARKS) and line[7:8] in ("", " "):
            raise InputError(f"{name} has conflicts of a merge, the first on line {number}", fix=fix)
