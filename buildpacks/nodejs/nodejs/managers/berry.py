"""Yarn 2 and newer. An adapter of `port.Manager`.

With the linkers `node-modules` and `pnpm` it is as other managers; with Plug'n'Play it installs in the
application, where `.pnp.cjs` has to be, and puts the packages wherever the order says.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import plugnplay, secret
from ..releases import major
from ..workspace import Workspace
from . import named, npmaccess, unlocked, yarnfailure, yarnrc, yarnregistry, yarnrelease
from .fetched import Fetched
from .port import Order
from .trim import own_copy, without_dev
from .yarnlock import NAME, Lock

_RECORDS = (".yarn/install-state.gz", ".yarn/build-state.yml")
_FOLDERS = (".yarn/patches", ".yarn/plugins", ".yarn/releases", ".yarn/constraints.pro", "yarn.config.cjs")
_PATCHED = ("dependencies", "devDependencies", "optionalDependencies", "resolutions")
_QUIET = {
    "YARN_ENABLE_TELEMETRY": "0",
    "YARN_ENABLE_PROGRESS_BARS": "0",
    "YARN_ENABLE_INLINE_BUILDS": "1",
    # Whether the lock may change is said with each command.
    "YARN_ENABLE_IMMUTABLE_INSTALLS": "0",
}


@dataclass(frozen=True, slots=True)
class Berry(Fetched):
    """The Yarn of `tool`, 2 or newer, for `project`; `lock` is its lock file's name, empty without one."""

    name = "Yarn"
    command = "yarn"
    fresh = "yarn install --immutable"
    slice = unlocked.LEVELS
    amender = None

    @property
    def linker(self) -> str:
        """`pnp` where neither the user nor the project says otherwise."""
        return self.context.env.get("YARN_NODE_LINKER") or self._settings.linker

    @property
    def inside_reason(self) -> str:
        """The linker `pnpm` has records in the project, without which it finds nothing again."""
        return "Yarn's nodeLinker is pnpm" if self.linker == "pnpm" else ""

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and Yarn on PATH, Yarn as quiet as it can be."""
        # yarnPath is this very Yarn; it would start a second one.
        return {**self.tool.env(self.runtime), **_QUIET, "YARN_IGNORE_PATH": "1"}

    @property
    def key(self) -> Mapping[str, str]:
        """The lock, the settings, the patches and plugins."""
        directory = self.project.directory
        key = {
            self.lock: self.project.digest(self.lock),
            yarnrc.BERRY: secret.digest(directory / yarnrc.BERRY),
        }
        names = set(self._patches())
        for folder in (".yarn/patches", ".yarn/plugins"):
            names |= {path.relative_to(directory).as_posix() for path in (directory / folder).rglob("*")}
        key |= named.code(self.project, yarnrc.BERRY)
        return {**key, **{name: self.project.digest(name) for name in sorted(names)}}

    @property
    def files(self) -> tuple[str, ...]:
        """The lock, the settings, and what these and package.json name."""
        own = tuple(name for name in (self.lock, yarnrc.BERRY, *_FOLDERS, *self._patches()) if name)
        return own + named.files(self.project, yarnrc.BERRY)

    @property
    def made(self) -> tuple[str, ...]:
        """A lock where there is none: Yarn runs no script without."""
        return () if self.lock else (NAME,)

    def install(self, order: Order) -> None:
        """`yarn install --immutable`; what production does not need is not asked for, see `trim`."""
        workspace = Workspace.read(order.directory, "")
        if not self.lock:
            unlocked.warn(self.context.log, NAME, self.command)
        with ExitStack() as stack:
            if not order.dev and (workspace.has_dev_dependencies or order.focus):
                stack.enter_context(without_dev(order.directory, order.focus))
                self._install(order, immutable=False)
            elif self.lock:
                self._install(order, immutable=True)
            else:
                for project in (workspace.root, *workspace.members.values()):
                    # Yarn writes them in its own way.
                    stack.enter_context(own_copy(project.directory / "package.json"))
                # An empty lock says that this directory is a project of its own.
                (order.directory / NAME).touch()
                self._install(order, immutable=False)
            if order.into:
                self._write_commands(order.directory, order.into)
        if order.directory != self.project.directory:
            for name in _RECORDS:
                (order.directory / name).unlink(missing_ok=True)

    def prune(self, order: Order) -> None:
        """Installs once more, without devDependencies; what is built already stays as it is."""
        with without_dev(order.directory, order.focus):
            self._install(order, immutable=False, build=False)

    @property
    def _settings(self) -> yarnrc.Settings:
        return yarnrc.Settings.read(self.project.directory)

    def _install(self, order: Order, *, immutable: bool, build: bool = True) -> None:
        before = Lock.read(order.directory)
        argv = ["yarn", "install"]
        if immutable:
            argv.append("--immutable")
        if not build:
            argv.append("--skip-builds" if major(self.version) < 3 else "--mode=skip-build")
        try:
            with npmaccess.lent(self.context, self.project) as hosts, self._linked_from(order) as linked:
                env = {**self.env, **self._places(order, hosts), **linked}
                self.context.run(argv, cwd=order.directory, env=env)
        except sdk.CommandFailed as failure:
            if yarnrelease.is_newer(before) and "YN0028" in failure.output:
                raise yarnrelease.newer(before) from failure
            raise yarnfailure.of_berry(failure, self.project.directory) from failure
        missing = before.lacks(Lock.read(order.directory)) if self.lock and not immutable else []
        if missing:
            raise yarnfailure.out_of_sync([f"Missing: {name}" for name in sorted(missing)])

    @property
    def _own_cache(self) -> Path:
        return self.project.directory / self._settings.cache

    def _places(self, order: Order, hosts: tuple[str, ...]) -> dict[str, str]:
        """Variables for where packages come from, `hosts` without TLS among them, and go to."""
        places = yarnregistry.for_berry(self.context, self._settings, hosts)
        if order.cache:
            places["YARN_GLOBAL_FOLDER"] = str(order.cache)
        own = self._own_cache
        if order.into:
            cache = order.into / plugnplay.CACHE
            if any(own.glob("*.zip")):
                shutil.copytree(own, cache)
            places["YARN_PNP_UNPLUGGED_FOLDER"] = str(order.into / plugnplay.UNPLUGGED)
        elif any(own.glob("*.zip")):
            cache = own
        else:
            return {**places, "YARN_ENABLE_GLOBAL_CACHE": "1"}
        return {**places, "YARN_ENABLE_GLOBAL_CACHE": "0", "YARN_CACHE_FOLDER": str(cache)}

    @contextmanager
    def _linked_from(self, order: Order) -> Iterator[dict[str, str]]:
        """Variables for a global folder that the linker `pnpm` can make hard links from, while it lasts.

        It knows no other way, and a layer is on another file system than the application. What is downloaded
        stays in the order's cache.
        """
        if self.linker != "pnpm":
            yield {}
            return
        with tempfile.TemporaryDirectory(dir=order.directory, prefix=".yarn-global-") as folder:
            more = {"YARN_GLOBAL_FOLDER": folder}
            if order.cache and not any(self._own_cache.glob("*.zip")):
                more |= {"YARN_ENABLE_GLOBAL_CACHE": "0", "YARN_CACHE_FOLDER": str(order.cache / "cache")}
            yield more

    def _write_commands(self, directory: Path, layer: Path) -> None:
        """Programs in `layer`/bin for the commands of direct dependencies: there is no node_modules/.bin."""
        said = self.context.capture(["yarn", "bin", "--json"], cwd=directory, env=self.env)
        commands = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        plugnplay.write_commands(layer, {command["name"]: command["path"] for command in commands})

    def _patches(self) -> Iterator[str]:
        """Files outside .yarn that `patch:` dependencies of the root and its members name, below the root."""
        workspace = Workspace.read(self.project.directory, "")
        for folder, project in {"": workspace.root, **workspace.members}.items():
            for table in _PATCHED:
                said = project.manifest.get(table, {})
                for spec in said.values() if isinstance(said, dict) else ():
                    if str(spec).startswith("patch:"):
                        yield from _patch_files(str(spec), folder)


def _patch_files(spec: str, folder: str) -> Iterator[str]:
    """The files that a `patch:` dependency of a manifest in `folder` names, of which Yarn itself has some."""
    for said in spec.partition("#")[2].partition("::")[0].split("&"):
        path = said.removeprefix("optional!")
        if not path or path.startswith(("~builtin<", "builtin<")):
            continue
        below = path.removeprefix("~/")
        inside = os.path.normpath(below if below != path else PurePosixPath(folder, path))
        if PurePosixPath(inside).is_absolute() or inside.startswith(".."):
            raise InputError(f"a patch is outside of the source: {spec}")
        if not inside.startswith(".yarn/"):
            yield inside
