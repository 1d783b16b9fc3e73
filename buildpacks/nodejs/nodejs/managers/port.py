"""What the buildpack asks of a package manager; npm.py and its neighbours each have an adapter.

On the arrow plan → layers. Called by `nodejs.modules`, which decides where the modules are and what is kept
from build to build; how they get there is the manager's. An adapter is a value: it holds the version to run
and the variables to run it with, and keeps nothing between calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from packhorse.sdk.dataclass import dataclass


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


class Amender(Protocol):
    """What brings modules of the last build up to date in less time than it takes to install all of them."""

    @property
    def follows(self) -> tuple[str, ...]:
        """The names in a layer's key that may differ from when the modules were installed."""

    @property
    def record(self) -> str:
        """The file in node_modules that says what is installed."""

    def amend(self, order: Order, record: bytes) -> bool:
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
    def fresh(self) -> str:
        """The words with which a person installs in a fresh copy of the source: `npm ci`."""

    @property
    def version(self) -> str:
        """The version that runs."""

    @property
    def locked(self) -> bool:
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
    def made(self) -> tuple[str, ...]:
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
    def amender(self) -> Amender | None:
        """Brings what `install` has made for an earlier lock up to date, where this manager can."""

    def prune(self, order: Order) -> None:
        """Takes the devDependencies out again of what `install` made; raises as that does."""

    def rebuild(self, directory: Path) -> None:
        """Runs the install scripts of modules that came with the source."""
