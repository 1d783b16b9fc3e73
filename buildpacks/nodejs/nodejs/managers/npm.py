"""Runs npm, the manager that comes with Node.js: an adapter of `port.Manager`.

`merge_npmrcs` merges npm's settings files into one, for managers that do not read all of npm's places. pnpm
10 and newer fill variables (`${NPM_TOKEN}`) only into the settings of the user and not of the project. In a
build the project may have variables too, because the project belongs to the user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from packhorse import sdk
from packhorse.errors import BuildpackFailed
from packhorse.sdk.dataclass import dataclass

from .. import credentials, versions
from ..node_modules import delete
from ..project import Project
from ..registry import ALLOW_OTHER_MANAGERS, NO_COMPILE_CACHE, SHORT_RETRIES, Registry
from ..runtime import Runtime, nodedir_variable
from ..versions import major
from ..workspace import Workspace
from . import port
from .choice import Choice
from .port import Order


@contextmanager
def merge_npmrcs(context: sdk.BuildContext, project: Project) -> Iterator[dict[str, str]]:
    """Returns the variables that name the merged file, which may have credentials, and the registry."""
    import tempfile

    said = Registry(context).config("globalconfig", "userconfig", "registry")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "npmrc")
        file.touch(mode=0o600)
        file.write_text("\n".join(_read_files(said, project)))
        yield {
            "npm_config_userconfig": str(file),
            "pnpm_config_npmrc_auth_file": str(file),
            "pnpm_config_registry": said["registry"],
        }


def read_npmrcs(context: sdk.BuildContext, project: Project) -> list[str]:
    """Reads the settings files; the last one wins."""
    return _read_files(Registry(context).config("globalconfig", "userconfig"), project)


def _read_files(said: Mapping[str, str], project: Project) -> list[str]:
    places = [Path(said.get(name, "")) for name in ("globalconfig", "userconfig")]
    places.append(project.directory / ".npmrc")
    return [path.read_text(errors="replace") for path in places if path.is_file()]


if TYPE_CHECKING:
    from .tool import Tool

# Older versions do not know `--omit` and would install devDependencies.
_OLDEST = 7
_NEWEST_LOCK = 3
_KINDS = ("optional", "peer")


@dataclass(frozen=True, slots=True)
class Npm:
    """The npm of `runtime`, or the `tool` that package.json asks for, for `project`.

    `lock` is the name of the lockfile, empty without one.
    """

    context: sdk.BuildContext
    project: Project
    runtime: Runtime
    lock: str
    tool: Tool | None = None

    @classmethod
    def of(cls, context: sdk.BuildContext, project: Project, runtime: Runtime, choice: Choice) -> Self:
        """Chooses the npm that comes with Node.js if it is in the range of `choice`, else another one."""
        if not choice.range or versions.allows(choice.range, runtime.npm, loose=True):
            return cls(context, project, runtime, choice.lock)
        from .tool import Package, provide_tool, too_old_error

        package = Package("npm", {"npm": "bin/npm-cli.js", "npx": "bin/npx-cli.js"})
        tool = provide_tool(context, package, choice, range=choice.range)
        if major(tool.version) < _OLDEST:
            raise too_old_error(choice, tool.version, f"the oldest that it works with is npm {_OLDEST}")
        return cls(context, project, runtime, choice.lock, tool)

    name = "npm"
    command = "npm"
    install_command = "npm ci"
    inside_reason = ""
    generated_files = ()
    linker = "node-modules"
    slice = ("node_modules",)

    @property
    def version(self) -> str:
        """The version that comes with this Node.js, unless package.json asks for another."""
        return self.tool.version if self.tool else self.runtime.npm

    @property
    def has_lock(self) -> bool:
        """Whether there is package-lock.json or npm-shrinkwrap.json."""
        return bool(self.lock)

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and npm on PATH."""
        if self.tool is None:
            return self.runtime.env
        env = self.tool.env(self.runtime)
        headers = env.pop(nodedir_variable(self.runtime.npm))
        return {**env, nodedir_variable(self.tool.version): headers}

    @property
    def key(self) -> Mapping[str, str]:
        """The lock and the settings."""
        return {
            self.lock: self.project.digest(self.lock),
            ".npmrc": credentials.settings_digest(self.project.directory / ".npmrc"),
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lockfile, the settings, and the files that the settings name."""
        return tuple(name for name in (self.lock, ".npmrc") if name) + port.named_files(
            self.project, ".npmrc"
        )

    def install(self, order: Order) -> None:
        """Runs `npm ci`, or `npm install` without a lockfile; see `port.Manager`."""
        self._warn_of_newer_lock()
        said = self._settings()
        kind = [*_kind_options(order, said), *self._workspace_options(order)]
        if self.lock:
            self._npm(order, said, "ci", *kind, *(["--prefer-offline"] if order.cache else []))
            return
        port.warn_of_missing_lock(self.context.log, "package-lock.json", self.command)
        self._npm(order, said, "install", "--no-package-lock", *kind)

    @property
    def incremental(self) -> Self | None:
        """This adapter itself, if there is a lockfile."""
        return self if self.lock else None

    @property
    def follows(self) -> tuple[str, ...]:
        """The lockfile and the dependencies in package.json; see `port.IncrementalInstaller`."""
        return ("dependencies", self.lock)

    record = ".package-lock.json"

    def install_changes(self, order: Order, record: bytes) -> bool:
        """Installs what is new with `npm install`, and compares the result with the lockfile, as `npm ci`
        does; see `port.IncrementalInstaller`.
        """
        from .manifests import private_copy
        from .npm_incremental import install_changes

        said = self._settings()
        kind = _kind_options(order, said)

        def install() -> None:
            argv = ["npm", "install", "--save", "--package-lock", *kind]
            self.context.run(argv, cwd=order.directory, env=self._env(order, said))

        omit = [word.partition("=")[2] for word in kind if word.startswith("--omit=")]
        manifest, lock = order.directory / "package.json", order.directory / self.lock
        # npm writes these again, and the application's own must not change.
        with private_copy(manifest), private_copy(lock):
            return install_changes(order.directory / "node_modules", lock, record, omit=omit, install=install)

    def prune(self, order: Order) -> None:
        """Runs `npm prune` with an option for what NODE_ENV would decide.

        With a focus, it removes all packages that `npm ls` does not name, because `npm prune` would install
        what the other members need.
        """
        if not order.focus:
            said = self._settings()
            self._npm(order, said, "prune", *_kind_options(order, said))
            return
        needed = self._needed_packages(order)
        for path in ("", *Workspace.read(order.directory, "").members):
            _keep_only(order.directory / path / "node_modules", needed)

    def rebuild(self, directory: Path) -> None:
        """Runs `npm rebuild`."""
        rebuild_with_npm(self.context, directory, self.env)

    def _settings(self) -> dict[str, str]:
        """The settings of the build image's npm that an installation needs. Asking npm takes a while."""
        return Registry(self.context).config("globalconfig", "omit")

    def _workspace_options(self, order: Order) -> list[str]:
        """The options for the members of the focus and the root, because members may use packages that npm
        puts above them.
        """
        members = [f"--workspace={member}" for member in order.focus]
        return [*members, "--include-workspace-root"] if members else []

    def _needed_packages(self, order: Order) -> frozenset[str]:
        """The paths of all packages that the image needs."""
        argv = ["npm", "ls", "--all", "--parseable", "--no-long", "--no-json"]
        argv += [*_kind_options(order, self._settings()), *self._workspace_options(order)]
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            said = Path(folder, "paths")
            # npm fails if a package is not the one that another asks for, which settings may allow.
            script = ["sh", "-c", '"$@" > "$0" || :', str(said)]
            self.context.capture([*script, *argv], cwd=order.directory, env={**NO_COMPILE_CACHE, **self.env})
            found = frozenset(said.read_text(errors="surrogateescape").splitlines())
        if str(order.directory.resolve()) not in found:
            raise BuildpackFailed(f"`{' '.join(argv)}` did not list the packages that the image needs")
        return found

    def _warn_of_newer_lock(self) -> None:
        """Warns of a newer lockfile: npm silently reads every version from 3 on as version 3."""
        path = self.project.directory / self.lock
        try:
            said = json.loads(path.read_bytes()) if self.lock else {}
        except (OSError, ValueError, RecursionError):
            return
        version = said.get("lockfileVersion", 0) if isinstance(said, dict) else 0
        if isinstance(version, int) and version > _NEWEST_LOCK:
            self.context.log.warning(
                f"{self.lock} has lockfileVersion {version}, newer than any known here; npm {self.version} "
                f"reads it as version {_NEWEST_LOCK}: "
                "ask for the npm that wrote it in package.json engines.npm"
            )

    def _npm(self, order: Order, said: Mapping[str, str], *args: str) -> None:
        try:
            self.context.run(["npm", *args], cwd=order.directory, env=self._env(order, said))
        except sdk.CommandFailed as failure:
            from .. import failures

            raise failures.npm_error(failure, self.project.directory) from failure

    def _env(self, order: Order, said: Mapping[str, str]) -> dict[str, str]:
        # The build image's npm knows the machine's registry, proxy and certificates; ours has another prefix.
        env = {
            **SHORT_RETRIES,
            **NO_COMPILE_CACHE,
            **self.env,
            "npm_config_globalconfig": said["globalconfig"],
        }
        if order.cache is not None:
            env |= {"npm_config_cache": str(order.cache), "npm_config_logs_max": "0"}
        return env


def _kind_options(order: Order, said: Mapping[str, str]) -> list[str]:
    """The options for the kinds of dependencies: production has no devDependencies.

    It also has none of the kinds that the user's settings leave out. An option replaces everything in
    variables and .npmrc, where `include=dev` would win over `--omit`.
    """
    if order.dev:
        return ["--include=dev"]
    left_out = said["omit"].replace(",", " ").split()
    return ["--omit=dev", *(f"--omit={kind}" for kind in _KINDS if kind in left_out), "--include=prod"]


def _keep_only(modules: Path, needed: frozenset[str]) -> None:
    """Removes the packages that are not `needed` from a node_modules directory and those inside it."""
    for path in [*modules.glob("[!.@]*"), *modules.glob("@*/*")]:
        if str(path.parent.resolve() / path.name) in needed:
            if not path.is_symlink():
                _keep_only(path / "node_modules", needed)
        elif path.is_dir() or path.is_symlink():
            delete(path)
    for scope in modules.glob("@*"):
        if scope.is_dir() and not any(scope.iterdir()):
            scope.rmdir()


def rebuild_with_npm(context: sdk.BuildContext, directory: Path, env: Mapping[str, str]) -> None:
    """Runs the install scripts of modules that any manager installed; raises as `port.Manager.install`."""
    config = {"npm_config_globalconfig": Registry(context).global_config()}
    try:
        whole = {**SHORT_RETRIES, **NO_COMPILE_CACHE, **ALLOW_OTHER_MANAGERS, **env, **config}
        context.run(["npm", "rebuild"], cwd=directory, env=whole)
    except sdk.CommandFailed as failure:
        from .. import failures

        raise failures.npm_error(failure) from failure
