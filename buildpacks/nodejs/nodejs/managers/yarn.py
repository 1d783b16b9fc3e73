"""Runs Yarn 1, and Yarn 2 and newer (Berry): two adapters of `port.Manager`.

With the linkers `node-modules` and `pnpm`, Berry installs like other managers. With Plug'n'Play it installs
in the application, where `.pnp.cjs` must be, and puts the packages into the directory that the order names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import credentials, plugnplay
from ..project import digest
from ..registry import NO_COMPILE_CACHE
from ..versions import major
from ..workspace import Workspace
from . import port, yarn_failures, yarn_release, yarn_settings
from .manifests import private_copy, without_dev
from .port import Order
from .tool import DownloadedManager
from .yarn_release import NAME, YarnLock

_MIRROR = "yarn-offline-mirror"
_RANGE = re.compile(r"[\s\d.x*^~<>=|v-]+(?:-[\w.]+)?")


@dataclass(frozen=True, slots=True)
class Yarn(DownloadedManager):
    """The Yarn 1 of `tool` for `project`; `lock` is the name of the lockfile, empty without one."""

    name = "Yarn"
    command = "yarn"
    install_command = "yarn install --frozen-lockfile"
    inside_reason = ""
    linker = "node-modules"
    incremental = None
    slice = port.MODULES_GLOBS

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and Yarn on PATH, and npm's node-gyp, because Yarn 1 would download its own."""
        env = self.tool.env(self.runtime)
        npm = Path(shutil.which("npm", path=env["PATH"]) or "").resolve().parents[1]
        gyp = ":".join(str(path) for path in sorted(npm.glob("node_modules/**/node-gyp-bin")))
        return {
            **env,
            "PATH": f"{env['PATH']}:{gyp}",
            "npm_config_node_gyp": str(npm / "node_modules/node-gyp/bin/node-gyp.js"),
            # yarn-path is this very Yarn; it would start a second one.
            "YARN_IGNORE_PATH": "1",
        }

    @property
    def key(self) -> Mapping[str, str]:
        """The lockfile, the settings, and the packages that come with the source."""
        return {
            self.lock: self.project.digest(self.lock),
            ".npmrc": credentials.settings_digest(self.project.directory / ".npmrc"),
            yarn_settings.CLASSIC: credentials.settings_digest(
                self.project.directory / yarn_settings.CLASSIC
            ),
            "offline mirror": self._mirror_digest,
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lockfile, the settings and the files that they name, and packages that come with the source."""
        own = tuple(name for name in (self.lock, ".npmrc", yarn_settings.CLASSIC, self._mirror) if name)
        return own + port.named_files(self.project, ".npmrc", yarn_settings.CLASSIC)

    def install(self, order: Order) -> None:
        """Runs `yarn install --frozen-lockfile`, or `--no-lockfile` without a lockfile.

        Yarn 1 cannot install for some members only, so `manifests` removes what the others need for a while.
        """
        if not self.lock:
            port.warn_of_missing_lock(self.context.log, NAME, self.command)
        missing = sorted(self._missing(order.directory)) if self.lock else []
        if missing:
            raise yarn_failures.out_of_sync([f"Missing: {name}" for name in missing])
        with ExitStack() as stack:
            if order.focus and not order.dev:
                stack.enter_context(without_dev(order.directory, order.focus))
            self._install(order)

    def prune(self, order: Order) -> None:
        """Installs again without devDependencies; packages that are built already do not change."""
        with without_dev(order.directory, order.focus):
            self._install(order, "--ignore-scripts", "--prefer-offline")

    @property
    def _mirror(self) -> str:
        return self._settings.classic.get(_MIRROR, "").removeprefix("./")

    @property
    def _mirror_digest(self) -> str:
        folder = self.project.directory / self._mirror
        there = sorted(folder.rglob("*")) if self._mirror and folder.is_dir() else []
        names = [path.relative_to(self.project.directory).as_posix() for path in there]
        said = "\n".join(f"{name} {self.project.digest(name)}" for name in names)
        return digest(said.encode()) if said else ""

    @property
    def _settings(self) -> yarn_settings.YarnSettings:
        return yarn_settings.YarnSettings.read(self.project.directory)

    def _install(self, order: Order, *more: str) -> None:
        frozen = "--frozen-lockfile" if self.lock else "--no-lockfile"
        argv = ["yarn", "install", frozen, "--non-interactive", f"--production={str(not order.dev).lower()}"]
        env = {
            **NO_COMPILE_CACHE,
            **self.env,
            **yarn_settings.classic_variables(self.context, self._settings),
        }
        # By itself root's Yarn 1 has a place for the whole machine.
        env["YARN_CACHE_FOLDER"] = str(order.cache or Path(self.context.env.get("HOME", "/")) / ".cache/yarn")
        with ExitStack() as stack:
            if self.lock and "npm_config_registry" in env:
                self._redirect(order.directory / NAME, env["npm_config_registry"], stack)
            try:
                self.context.run([*argv, *more], cwd=order.directory, env=env)
            except sdk.CommandFailed as failure:
                raise yarn_failures.classic_error(failure, self.project.directory) from failure

    def _redirect(self, lock: Path, registry: str, stack: ExitStack) -> None:
        """Lets the lockfile name `registry` instead of the public ones for a while, as npm does by itself.

        Yarn still checks all downloads against the hashes of the lockfile.
        """
        text = lock.read_text(encoding="utf-8", errors="surrogateescape")
        changed = text
        for public in self._public_registries():
            changed = changed.replace(f'resolved "{public}/', f'resolved "{registry.rstrip("/")}/')
        if changed != text:
            stack.enter_context(private_copy(lock))
            lock.write_text(changed, encoding="utf-8", errors="surrogateescape")

    def _public_registries(self) -> Iterator[str]:
        """The registries that Yarn 1 and npm use by default."""
        unset = {name: "" for name in self.context.env if name.lower() == "npm_config_registry"}
        nowhere = {"HOME": "/nonexistent", "npm_config_globalconfig": "/nonexistent/npmrc"}
        env = {**NO_COMPILE_CACHE, **self.env, **unset, **nowhere}
        for client in ("yarn", "npm"):
            said = self.context.capture([client, "config", "get", "registry"], cwd=Path("/"), env=env)
            if urlsplit(said.strip()).hostname:
                yield said.strip().rstrip("/")

    def _missing(self, directory: Path) -> Iterator[str]:
        """What manifests ask for and the lockfile lacks; Yarn 1 does not notice it for members of a
        workspace.
        """
        settled = YarnLock.read(directory).resolutions
        workspace = Workspace.read(directory, "")
        spared = _settled_elsewhere(workspace)
        for project in (workspace.root, *workspace.members.values()):
            for part in ("dependencies", "devDependencies", "optionalDependencies"):
                for name, range_ in project.manifest.get(part, {}).items():
                    is_said = f"{name}@{range_}" in settled or name in spared
                    if _RANGE.fullmatch(range_) and not is_said:
                        yield f"{name}@{range_}"


def _settled_elsewhere(workspace: Workspace) -> set[str]:
    """The members, and the packages whose version `resolutions` sets: `b` of `a/**/b`, `@s/b` of
    `**/@s/b@^1`.
    """
    found = {member.name for member in workspace.members.values()}
    rules = workspace.root.manifest.get("resolutions")
    for pattern in rules if isinstance(rules, dict) else ():
        before, _, last = pattern.rpartition("/")
        scope, name = before.rpartition("/")[2], last.partition("@")[0]
        found.add(f"{scope}/{name}" if scope.startswith("@") else name)
    return found


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
class Berry(DownloadedManager):
    """The Yarn 2 or newer of `tool` for `project`; `lock` is the name of the lockfile, empty without one."""

    name = "Yarn"
    command = "yarn"
    install_command = "yarn install --immutable"
    slice = port.MODULES_GLOBS
    incremental = None

    @property
    def linker(self) -> str:
        """`pnp`, unless the user or the project sets another linker."""
        return self.context.env.get("YARN_NODE_LINKER") or self._settings.linker

    @property
    def inside_reason(self) -> str:
        """The linker `pnpm` keeps records in the project, and needs them to find its packages again."""
        return "Yarn's nodeLinker is pnpm" if self.linker == "pnpm" else ""

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and Yarn on PATH, with settings that make Yarn as quiet as possible."""
        # yarnPath is this very Yarn; it would start a second one.
        return {**self.tool.env(self.runtime), **_QUIET, "YARN_IGNORE_PATH": "1"}

    @property
    def key(self) -> Mapping[str, str]:
        """The lockfile, the settings, the patches and plugins."""
        directory = self.project.directory
        key = {
            self.lock: self.project.digest(self.lock),
            yarn_settings.BERRY: credentials.settings_digest(directory / yarn_settings.BERRY),
        }
        names = set(self._patches())
        for folder in (".yarn/patches", ".yarn/plugins"):
            names |= {path.relative_to(directory).as_posix() for path in (directory / folder).rglob("*")}
        key |= port.named_code(self.project, yarn_settings.BERRY)
        return {**key, **{name: self.project.digest(name) for name in sorted(names)}}

    @property
    def files(self) -> tuple[str, ...]:
        """The lockfile, the settings, and the files that they and package.json name."""
        own = tuple(name for name in (self.lock, yarn_settings.BERRY, *_FOLDERS, *self._patches()) if name)
        return own + port.named_files(self.project, yarn_settings.BERRY)

    @property
    def generated_files(self) -> tuple[str, ...]:
        """A lockfile, if there is none, because Yarn runs no script without one."""
        return () if self.lock else (NAME,)

    def install(self, order: Order) -> None:
        """Runs `yarn install --immutable`; `manifests` removes what production does not need for a while."""
        workspace = Workspace.read(order.directory, "")
        if not self.lock:
            port.warn_of_missing_lock(self.context.log, NAME, self.command)
        with ExitStack() as stack:
            if not order.dev and (workspace.has_dev_dependencies or order.focus):
                stack.enter_context(without_dev(order.directory, order.focus))
                self._install(order, immutable=False)
            elif self.lock:
                self._install(order, immutable=True)
            else:
                for project in (workspace.root, *workspace.members.values()):
                    # Yarn writes them in its own way.
                    stack.enter_context(private_copy(project.directory / "package.json"))
                # An empty lock says that this directory is a project of its own.
                (order.directory / NAME).touch()
                self._install(order, immutable=False)
            if order.into:
                self._write_commands(order.directory, order.into)
        if order.directory != self.project.directory:
            for name in _RECORDS:
                (order.directory / name).unlink(missing_ok=True)

    def prune(self, order: Order) -> None:
        """Installs again without devDependencies; packages that are built already do not change."""
        with without_dev(order.directory, order.focus):
            self._install(order, immutable=False, build=False)

    @property
    def _settings(self) -> yarn_settings.YarnSettings:
        return yarn_settings.YarnSettings.read(self.project.directory)

    def _install(self, order: Order, *, immutable: bool, build: bool = True) -> None:
        before = YarnLock.read(order.directory)
        argv = ["yarn", "install"]
        if immutable:
            argv.append("--immutable")
        if not build:
            argv.append("--skip-builds" if major(self.version) < 3 else "--mode=skip-build")
        try:
            with (
                yarn_settings.lend_npm_access(self.context, self.project) as hosts,
                self._linked_from(order) as linked,
            ):
                env = {**self.env, **self._places(order, hosts), **linked}
                self.context.run(argv, cwd=order.directory, env=env)
        except sdk.CommandFailed as failure:
            if yarn_release.is_newer_lock(before) and "YN0028" in failure.output:
                raise yarn_release.newer_lock_error(before) from failure
            raise yarn_failures.berry_error(failure, self.project.directory) from failure
        missing = before.find_changes(YarnLock.read(order.directory)) if self.lock and not immutable else []
        if missing:
            raise yarn_failures.out_of_sync([f"Missing: {name}" for name in sorted(missing)])

    @property
    def _own_cache(self) -> Path:
        return self.project.directory / self._settings.cache

    def _places(self, order: Order, hosts: tuple[str, ...]) -> dict[str, str]:
        """Variables that say from where packages come, which `hosts` need no TLS, and where packages go."""
        places = yarn_settings.berry_variables(self.context, self._settings, hosts)
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
        """In the block, variables for a global folder from which the linker `pnpm` can make hard links.

        It can only link, and a layer is on another file system than the application. Downloads stay in the
        order's cache.
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
        """Writes programs to `layer`/bin for the commands of direct dependencies, because there is no
        node_modules/.bin.
        """
        said = self.context.capture(["yarn", "bin", "--json"], cwd=directory, env=self.env)
        commands = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        plugnplay.write_commands(layer, {command["name"]: command["path"] for command in commands})

    def _patches(self) -> Iterator[str]:
        """The files outside .yarn, below the root, that `patch:` dependencies of the root and its members
        name.
        """
        workspace = Workspace.read(self.project.directory, "")
        for folder, project in {"": workspace.root, **workspace.members}.items():
            for table in _PATCHED:
                said = project.manifest.get(table, {})
                for spec in said.values() if isinstance(said, dict) else ():
                    if str(spec).startswith("patch:"):
                        yield from _patch_files(str(spec), folder)


def _patch_files(spec: str, folder: str) -> Iterator[str]:
    """The files that a `patch:` dependency of a manifest in `folder` names; Yarn itself has some of them."""
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
