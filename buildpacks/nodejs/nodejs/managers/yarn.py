"""Yarn 1. An adapter of `port.Manager`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass

from .. import secret
from ..project import digest
from ..registry import UNKEPT
from ..workspace import Workspace
from . import named, unlocked, yarnfailure, yarnrc, yarnregistry
from .fetched import Fetched
from .port import Order
from .trim import own_copy, without_dev
from .yarnlock import NAME, Lock

_MIRROR = "yarn-offline-mirror"
_RANGE = re.compile(r"[\s\d.x*^~<>=|v-]+(?:-[\w.]+)?")


@dataclass(frozen=True, slots=True)
class Yarn(Fetched):
    """The Yarn of `tool`, 1, for `project`; `lock` is the name of its lock file, empty without one."""

    name = "Yarn"
    command = "yarn"
    fresh = "yarn install --frozen-lockfile"
    inside_reason = ""
    linker = "node-modules"
    amender = None
    slice = unlocked.LEVELS

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and Yarn on PATH, and npm's node-gyp, which Yarn 1 would fetch for itself."""
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
        """The lock, the settings, and the packages that come with the source."""
        return {
            self.lock: self.project.digest(self.lock),
            ".npmrc": secret.digest(self.project.directory / ".npmrc"),
            yarnrc.CLASSIC: secret.digest(self.project.directory / yarnrc.CLASSIC),
            "offline mirror": self._mirror_digest,
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lock, the settings, what these name, and the packages that come with the source."""
        own = tuple(name for name in (self.lock, ".npmrc", yarnrc.CLASSIC, self._mirror) if name)
        return own + named.files(self.project, ".npmrc", yarnrc.CLASSIC)

    def install(self, order: Order) -> None:
        """`yarn install --frozen-lockfile`, or without a lock `--no-lockfile`.

        Yarn 1 itself knows no choice of members: what the others need is not asked for, see `trim`.
        """
        if not self.lock:
            unlocked.warn(self.context.log, NAME, self.command)
        missing = sorted(self._missing(order.directory)) if self.lock else []
        if missing:
            raise yarnfailure.out_of_sync([f"Missing: {name}" for name in missing])
        with ExitStack() as stack:
            if order.focus and not order.dev:
                stack.enter_context(without_dev(order.directory, order.focus))
            self._install(order)

    def prune(self, order: Order) -> None:
        """Installs once more, without devDependencies; what is built already stays as it is."""
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
    def _settings(self) -> yarnrc.Settings:
        return yarnrc.Settings.read(self.project.directory)

    def _install(self, order: Order, *more: str) -> None:
        frozen = "--frozen-lockfile" if self.lock else "--no-lockfile"
        argv = ["yarn", "install", frozen, "--non-interactive", f"--production={str(not order.dev).lower()}"]
        env = {**UNKEPT, **self.env, **yarnregistry.for_classic(self.context, self._settings)}
        # By itself root's Yarn 1 has a place for the whole machine.
        env["YARN_CACHE_FOLDER"] = str(order.cache or Path(self.context.env.get("HOME", "/")) / ".cache/yarn")
        with ExitStack() as stack:
            if self.lock and "npm_config_registry" in env:
                self._redirect(order.directory / NAME, env["npm_config_registry"], stack)
            try:
                self.context.run([*argv, *more], cwd=order.directory, env=env)
            except sdk.CommandFailed as failure:
                raise yarnfailure.of_classic(failure, self.project.directory) from failure

    def _redirect(self, lock: Path, registry: str, stack: ExitStack) -> None:
        """Has the lock, for a while, name `registry` where it names the public ones, as npm does itself.

        What is downloaded is held against the lock's hashes all the same.
        """
        text = lock.read_text(encoding="utf-8", errors="surrogateescape")
        changed = text
        for public in self._public_registries():
            changed = changed.replace(f'resolved "{public}/', f'resolved "{registry.rstrip("/")}/')
        if changed != text:
            stack.enter_context(own_copy(lock))
            lock.write_text(changed, encoding="utf-8", errors="surrogateescape")

    def _public_registries(self) -> Iterator[str]:
        """Where Yarn 1 and npm look when nobody tells them."""
        unset = {name: "" for name in self.context.env if name.lower() == "npm_config_registry"}
        nowhere = {"HOME": "/nonexistent", "npm_config_globalconfig": "/nonexistent/npmrc"}
        env = {**UNKEPT, **self.env, **unset, **nowhere}
        for client in ("yarn", "npm"):
            said = self.context.capture([client, "config", "get", "registry"], cwd=Path("/"), env=env)
            if urlsplit(said.strip()).hostname:
                yield said.strip().rstrip("/")

    def _missing(self, directory: Path) -> Iterator[str]:
        """What manifests ask for and the lock has not; of a workspace's members Yarn 1 does not see that."""
        settled = Lock.read(directory).settled
        workspace = Workspace.read(directory, "")
        spared = _settled_elsewhere(workspace)
        for project in (workspace.root, *workspace.members.values()):
            for part in ("dependencies", "devDependencies", "optionalDependencies"):
                for name, range_ in project.manifest.get(part, {}).items():
                    is_said = f"{name}@{range_}" in settled or name in spared
                    if _RANGE.fullmatch(range_) and not is_said:
                        yield f"{name}@{range_}"


def _settled_elsewhere(workspace: Workspace) -> set[str]:
    """The members, and the packages that `resolutions` settle: `b` of `a/**/b`, `@s/b` of `**/@s/b@^1`."""
    found = {member.name for member in workspace.members.values()}
    rules = workspace.root.manifest.get("resolutions")
    for pattern in rules if isinstance(rules, dict) else ():
        before, _, last = pattern.rpartition("/")
        scope, name = before.rpartition("/")[2], last.partition("@")[0]
        found.add(f"{scope}/{name}" if scope.startswith("@") else name)
    return found
