"""Defines what the buildpack needs from a package manager, and what all adapters share.

On the arrow plan → layers. Called by `modules`, which decides where modules are and what is kept from build
to build. The manager decides how they get there. An adapter is a value: it holds the version to run and the
variables to run it with, and keeps no state between calls.

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
    """What is to be installed: below `directory`, which has `package.json`, into `node_modules`.

    `cache` is a directory that lasts from build to build, for downloads; None where what is installed is kept
    itself. `focus` has the names of the workspace members that are needed, empty for all. `into` is where
    packages go under Plug'n'Play, which has no node_modules.
    """

    directory: Path
    dev: bool
    cache: Path | None = None
    focus: tuple[str, ...] = ()
    into: Path | None = None


class IncrementalInstaller(Protocol):
    """What brings modules of the last build up to date in less time than it takes to install all of them."""

    @property
    def follows(self) -> tuple[str, ...]:
        """The names in a layer's key that may differ from when the modules were installed."""

    @property
    def record(self) -> str:
        """The file in node_modules that says what is installed."""

    def install_changes(self, order: Order, record: bytes) -> bool:
        """Makes of modules that `install` has left, with this record, what it would make now of nothing.

        False where that is not certain or did not succeed: the directory is then of no use any more.
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
        """The words with which a person installs in a fresh copy of the source: `npm ci`."""

    @property
    def version(self) -> str:
        """The version that runs."""

    @property
    def has_lock(self) -> bool:
        """Whether there is a lock of this manager's."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables that commands, scripts of the application too, run with; PATH among them."""

    @property
    def key(self) -> Mapping[str, str]:
        """What of the project the installed files depend on beside package.json: lock, settings, patches.

        Names for people → digests or texts. Credentials are not in it.
        """

    @property
    def files(self) -> tuple[str, ...]:
        """Files and folders of the project, beside package.json, that an installation elsewhere needs."""

    @property
    def generated(self) -> tuple[str, ...]:
        """Files that an installation makes in the project, which scripts need and the image does not."""

    @property
    def linker(self) -> str:
        """How programs find modules: `pnp`, or by node_modules, which managers lay out in several ways."""

    @property
    def inside_reason(self) -> str:
        """Why this manager has to install inside the application; empty when a layer will do."""

    @property
    def slice(self) -> tuple[str, ...]:
        """Globs of what it leaves in the application where it installs inside: a layer of the image."""

    def install(self, order: Order) -> None:
        """Installs exactly what the lock says, or the newest that fits, with a warning, without a lock.

        Raises InputError when the lock does not match, NetworkError, FormatError for a package that is not
        the published one, and BuildpackFailed.
        """

    @property
    def incremental(self) -> IncrementalInstaller | None:
        """Brings what `install` has made for an earlier lock up to date, where this manager can."""

    def prune(self, order: Order) -> None:
        """Takes the devDependencies out again of what `install` made; raises as that does."""

    def rebuild(self, directory: Path) -> None:
        """Runs the install scripts of modules that came with the source."""


# Quotes and white space are no part of a path here, and what is longer than any path is none.
_PATH_WORD = re.compile(r"""[^\s'"=,:\[\]{}]{3,1000}""")
_CODE = (".js", ".cjs", ".mjs")
# Whole folders of these are taken care of.
_WHOLE_FOLDERS = (".yarn", "node_modules")


def named_files(project: Project, *settings: str) -> tuple[str, ...]:
    """The paths below the project that its files called `settings` name and that are there."""
    found = {path for name in settings for path in _find_named(project.directory, name)}
    return tuple(sorted(found))


def named_code(project: Project, *settings: str) -> dict[str, str]:
    """Of these the digests of programs, by their paths: what they do may decide what is installed."""
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
"""Where modules of a workspace are looked for when no lock says where its projects are."""


def warn_of_missing_lock(log: sdk.Log, lock: str, command: str) -> None:
    """Says that `command` installs what is newest, for want of the file `lock`."""
    log.warning(
        f"there is no {lock}, so the newest versions that fit are installed; "
        f"run `{command} install` and commit the lock to have the same ones each time"
    )


_MARKS = ("<<<<<<<", "=======", ">>>>>>>")


def refuse_merge_conflicts(text: str, *, name: str, fix: str) -> None:
    """Raises InputError if `text`, that of the file `name`, has such marks."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_MARKS) and line[7:8] in ("", " "):
            raise InputError(f"{name} has conflicts of a merge, the first on line {number}", fix=fix)
