"""pnpm: an adapter of `port.Manager`.

Its store of packages is the build's alone, and what it installs are copies: nothing in a layer is linked to a
file outside of it. Without a `focus` it installs for all projects of a workspace, with one for those that are
named and for the root, links to members (`workspace:`) among what they need.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import secret
from ..project import digest
from ..releases import major
from ..workspace import SETTING, Workspace
from . import named, npmrc, pnpmfault, pnpmlock, pnpmstore, unlocked
from .fetched import Fetched
from .npm import npm_rebuild
from .port import Order

WORKSPACE = "pnpm-workspace.yaml"
_HOOKS = (".pnpmfile.cjs", ".pnpmfile.mjs")
_WORD = re.compile(r"""[^\s'":,{}\[\]]+""")
_PATCH = re.compile(r".\.(?:patch|diff)\b")
_LOCAL = re.compile(r"""["'\s](?:link|file|portal):[^"'\s]+""")
_COPIED = re.compile(r"^ {4}resolution: \{directory: ([^,}]+), type: directory\}", re.MULTILINE)
_INJECTS = re.compile(r"^injectWorkspacePackages:[ \t]*true\b", re.MULTILINE)
_PNP = re.compile(r"""^[ \t]*(?:node-linker[ \t]*=|nodeLinker:)[ \t]*["']?pnp\b""", re.MULTILINE)
_DEV_HOOK = "pnpm:devPreinstall"
_ASKS, _KEEPS_RECORDS, _ORDERS = 10, 11, 11
_COMMAND = re.compile(r"[&|;]")
_CALL = re.compile(r"\b(?:pnpm|pn)\b")
_RECURSIVE = re.compile(r"\s(?:-r|--recursive|recursive|multi|m|-F|--filter)\b")


@dataclass(frozen=True)
class Pnpm(Fetched):
    """The pnpm of `tool` for `project`, the root of a workspace if there is one."""

    name = "pnpm"
    command = "pnpm"
    fresh = "pnpm install"
    linker = "node-modules"
    amender = None

    @cached_property
    def env(self) -> Mapping[str, str]:
        """Both on PATH, and a pnpm that neither becomes another one nor installs before scripts."""
        return {
            **self.tool.env(self.runtime),
            **_variables(
                manage_package_manager_versions="false",
                package_manager_strict="false",
                pm_on_fail="ignore",
                update_notifier="false",
                verify_deps_before_run="false",
            ),
        }

    @property
    def key(self) -> Mapping[str, str]:
        """The lock, the settings, hooks and patches."""
        said = self.project.manifest.get("pnpm")
        names = (pnpmlock.NAME, WORKSPACE, *_HOOKS, *self._patches)
        return {
            **{name: self.project.digest(name) for name in names},
            **named.code(self.project, ".npmrc", WORKSPACE),
            ".npmrc": secret.digest(self.project.directory / ".npmrc"),
            "package.json pnpm": digest(json.dumps(said, sort_keys=True).encode()) if said else "",
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lock, the settings, hooks and patches."""
        own = (pnpmlock.NAME, WORKSPACE, ".npmrc", *_HOOKS, *self._patches)
        return own + named.files(self.project, ".npmrc", WORKSPACE)

    @property
    def inside_reason(self) -> str:
        """Settings that make a path of the application a dependency, and scripts that need a directory."""
        if _DEV_HOOK in self.project.scripts:
            return f"package.json has a script {_DEV_HOOK}, which may use any file of the application"
        runs_scripts = not self.context.env.get(SETTING)
        for name, script in self.project.scripts.items() if runs_scripts else ():
            if major(self.version) >= _KEEPS_RECORDS and is_recursive(script):
                return f"the script {name} runs others by pnpm {self.version}, which keeps records in it"
        for name, text in self._texts:
            if found := _LOCAL.search(text):
                return f"{name} has a dependency in the application's own files ({found[0].strip(' ')})"
        if injected := self._injected:
            return f"a copy of {injected} is among the modules (injected)"
        return ""

    @property
    def slice(self) -> tuple[str, ...]:
        """node_modules of each project in the lock; without one, of the first levels of folders."""
        lock = pnpmlock.Lock.read(self.project.directory)
        if not lock:
            return unlocked.LEVELS
        return tuple(str(PurePosixPath(path, "node_modules")) for path in lock.importers or (".",))

    def install(self, order: Order) -> None:
        """`pnpm install --frozen-lockfile`; see `port.Manager`. Says which install scripts did not run."""
        self._refuse_plug_and_play()
        if not self.lock:
            unlocked.warn(self.context.log, pnpmlock.NAME, self.command)
        output = self._install(order, "--prefer-offline" if order.cache else "")
        if packages := pnpmfault.ignored(output):
            self.context.log.warning(pnpmfault.not_run(packages))

    def prune(self, order: Order) -> None:
        """`pnpm install --prod`, which unlike `pnpm prune` takes care of all projects of a workspace.

        It downloads nothing and runs no script: `prepare` may need the devDependencies.
        """
        self._install(dataclasses.replace(order, dev=False), "--offline", "--ignore-scripts")
        if order.focus:
            workspace = Workspace.read(order.directory, "")
            kept = {
                path: member
                for path, member in workspace.members.items()
                if workspace.names((path,))[0] in order.focus
            }
            pnpmstore.sweep(order.directory, {"": workspace.root, **kept})

    def rebuild(self, directory: Path) -> None:
        """`pnpm rebuild`, which keeps to the modules that may run scripts.

        `npm rebuild` for modules of another manager, and where pnpm runs all scripts and wants its store.
        """
        is_own = (directory / "node_modules/.modules.yaml").is_file()
        if is_own and major(self.version) >= _ASKS:
            self._pnpm(Order(directory, dev=True), "rebuild")
        else:
            npm_rebuild(self.context, directory, self.env)

    def _install(self, order: Order, *options: str) -> str:
        lock = ("--frozen-lockfile",) if self.lock else ("--no-lockfile", "--no-frozen-lockfile")
        chosen = (f"--filter={name}" for name in order.focus)
        kind = () if order.dev else ("--prod",)
        # As options, since settings of the project come before variables.
        layout = (
            "--virtual-store-dir=node_modules/.pnpm",
            # Not clone-or-copy, which makes hard links where it cannot clone.
            "--package-import-method=copy",
            "--config.enable-global-virtual-store=false",
            "--config.modules-cache-max-age=0",
        )
        return self._pnpm(order, "install", *lock, *kind, *chosen, *filter(None, options), *layout)

    def _pnpm(self, order: Order, *args: str) -> str:
        home = order.cache or Path(self.context.env.get("HOME") or "/tmp", ".cache/packhorse-pnpm")
        argv = ["pnpm", *args, f"--store-dir={home / 'store'}"]
        env = {
            **self.env,
            # Questions are answered by pnpm itself.
            "CI": "true",
            "npm_config_nodedir": self.runtime.headers,
            "XDG_STATE_HOME": str(home / "state"),
            **self._one_by_one,
            **_variables(
                cache_dir=str(home / "cache"), fetch_retry_mintimeout="1000", fetch_retry_maxtimeout="5000"
            ),
        }
        with npmrc.merged(self.context, self.project) as access:
            try:
                return self.context.run(argv, cwd=order.directory, env={**env, **access})
            except sdk.CommandFailed as failure:
                raise pnpmfault.explained(failure, self.project.directory) from failure

    @property
    def _one_by_one(self) -> Mapping[str, str]:
        """Has the projects of a workspace come in order of their paths.

        pnpm 10 and older take them as the reads of their settings end: of two versions of a package either
        may then be hoisted. One thread ends the reads as they began; packages are copied by others.
        """
        is_several = (self.project.directory / WORKSPACE).is_file()
        return {"UV_THREADPOOL_SIZE": "1"} if is_several and major(self.version) < _ORDERS else {}

    @property
    def _injected(self) -> str:
        """A member that is no link but copied, by the lock; without one by what asks for copies."""
        lock = self.project.directory / pnpmlock.NAME
        if self.lock and lock.is_file():
            found = _COPIED.search(lock.read_text(errors="replace"))
            return found[1] if found else ""
        if any(_INJECTS.search(text) for _, text in self._texts):
            return "each member"
        workspace = Workspace.read(self.project.directory, "")
        for project in (workspace.root, *workspace.members.values()):
            said = project.manifest.get("dependenciesMeta")
            for name, meta in said.items() if isinstance(said, dict) else ():
                if isinstance(meta, dict) and meta.get("injected"):
                    return str(name)
        return ""

    @property
    def _texts(self) -> Iterator[tuple[str, str]]:
        """The texts in which pnpm finds its settings, by where they are."""
        yield "package.json pnpm", json.dumps(self.project.manifest.get("pnpm", {}))
        path = self.project.directory / WORKSPACE
        yield WORKSPACE, path.read_text(errors="replace") if path.is_file() else ""

    @cached_property
    def _patches(self) -> tuple[str, ...]:
        """The patches that settings name, by their paths."""
        named = {path.removeprefix("./") for _, text in self._texts for path in patches(text)}
        return tuple(sorted(path for path in named if self._is_inside(path)))

    def _is_inside(self, path: str) -> bool:
        inside = PurePosixPath(path)
        return ".." not in inside.parts and (self.project.directory / inside).is_file()

    def _refuse_plug_and_play(self) -> None:
        for name in (".npmrc", WORKSPACE):
            path = self.project.directory / name
            if path.is_file() and _PNP.search(path.read_text(errors="replace")):
                raise InputError(
                    f"{name} asks for a layout without node_modules (node-linker: pnp)",
                    why="pnpm's Plug'n'Play needs a loader that Node.js is to be started with",
                    fix="use `isolated`, which is the default, or `hoisted`",
                )


def patches(text: str) -> Iterator[str]:
    """The paths of patches that a text names."""
    for word in _WORD.findall(text):
        ends = [found.end() for found in _PATCH.finditer(word)]
        if ends:
            yield word[: ends[-1]]


def is_recursive(script: str) -> bool:
    """Whether one of its commands has pnpm run others in several projects."""
    for command in _COMMAND.split(script):
        call = _CALL.search(command)
        if call and _RECURSIVE.search(command, call.end()):
            return True
    return False


def _variables(**values: str) -> dict[str, str]:
    """Settings as variables: until pnpm 10 they have the names of npm's, from 11 on names of their own."""
    return {f"{prefix}_config_{name}": value for name, value in values.items() for prefix in ("npm", "pnpm")}
