"""Runs pnpm: an adapter of `port.Manager`.

pnpm's store of packages is never in the image, and pnpm installs copies: no file in a layer is a link out of
the layer. Without a `focus` pnpm installs for all projects of a workspace. With one it installs for the named
projects and for the root; links to members (`workspace:`) count as dependencies. pnpm keeps packages of other
projects in node_modules/.pnpm, so this module removes them.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass

from .. import credentials
from ..node_modules import delete
from ..project import DEPENDENCIES, Project, digest
from ..versions import major
from ..workspace import PROJECT_SETTING, Workspace
from . import npm, pnpm_failures, pnpm_release, port
from .npm import rebuild_with_npm
from .port import Order
from .tool import DownloadedManager

_STORE = "node_modules/.pnpm"
_HOISTED = "node_modules"


def remove_unneeded_packages(root: Path, projects: Mapping[str, Project]) -> None:
    """Removes all packages below `root` that no project in `projects` (paths) needs, and the links to them.

    A link of the root that its manifest does not name was only hoisted, so it does not count.
    """
    store = root / _STORE
    if not store.is_dir():
        return
    needed = _needed_folders(root, store, projects)
    for path in list(store.iterdir()):
        is_package = path.is_dir() and not path.is_symlink() and path.name != _HOISTED
        if is_package and path.name not in needed:
            delete(path)
    for link in _find_links(root / "node_modules"):
        if not link.exists() and _store_folder(store, link):
            link.unlink()


def _needed_folders(root: Path, store: Path, projects: Mapping[str, Project]) -> set[str]:
    """The names of the folders in the store to which the projects lead, directly or through others."""
    waiting = [
        root / path / "node_modules" / name
        for path, project in projects.items()
        for name in project.dependency_names(DEPENDENCIES)
    ]
    found: set[str] = set()
    while waiting:
        name = _store_folder(store, waiting.pop())
        if name and name not in found and name != _HOISTED:
            found.add(name)
            waiting += _find_links(store / name / "node_modules")
    return found


def _store_folder(store: Path, link: Path) -> str:
    """The folder of the store to which a link leads; empty for other files."""
    target = Path(os.path.realpath(link))
    real = Path(os.path.realpath(store))
    return target.relative_to(real).parts[0] if target != real and target.is_relative_to(real) else ""


def _find_links(modules: Path) -> Iterator[Path]:
    for pattern in ("[!.]*", "@*/*"):
        yield from (path for path in modules.glob(pattern) if path.is_symlink())


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
class Pnpm(DownloadedManager):
    """The pnpm of `tool` for `project`, the root of a workspace if there is one."""

    name = "pnpm"
    command = "pnpm"
    install_command = "pnpm install"
    linker = "node-modules"
    incremental = None

    @cached_property
    def env(self) -> Mapping[str, str]:
        """Node.js and pnpm on PATH, with settings so that pnpm switches to no other version and installs
        nothing before it runs a script.
        """
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
        names = (pnpm_release.NAME, WORKSPACE, *_HOOKS, *self._patches)
        return {
            **{name: self.project.digest(name) for name in names},
            **port.named_code(self.project, ".npmrc", WORKSPACE),
            ".npmrc": credentials.settings_digest(self.project.directory / ".npmrc"),
            "package.json pnpm": digest(json.dumps(said, sort_keys=True).encode()) if said else "",
        }

    @property
    def files(self) -> tuple[str, ...]:
        """The lock, the settings, hooks and patches."""
        own = (pnpm_release.NAME, WORKSPACE, ".npmrc", *_HOOKS, *self._patches)
        return own + port.named_files(self.project, ".npmrc", WORKSPACE)

    @property
    def inside_reason(self) -> str:
        """Settings for which a dependency is a path in the application, and scripts that need a real
        directory.
        """
        if _DEV_HOOK in self.project.scripts:
            return f"package.json has a script {_DEV_HOOK}, which may use any file of the application"
        runs_scripts = not self.context.env.get(PROJECT_SETTING)
        for name, script in self.project.scripts.items() if runs_scripts else ():
            if major(self.version) >= _KEEPS_RECORDS and is_recursive(script):
                return f"the script {name} runs others by pnpm {self.version}, which keeps records in it"
        for name, text in self._texts:
            if found := _LOCAL.search(text):
                return f"{name} has a dependency in the application's own files ({found[0].strip(' ')})"
        if injected := self._injected_member:
            return f"a copy of {injected} is among the modules (injected)"
        return ""

    @property
    def slice(self) -> tuple[str, ...]:
        """node_modules of each project in the lock; without one, of the first levels of folders."""
        lock = pnpm_release.PnpmLock.read(self.project.directory)
        if not lock:
            return port.MODULES_GLOBS
        return tuple(str(PurePosixPath(path, "node_modules")) for path in lock.importers or (".",))

    def install(self, order: Order) -> None:
        """`pnpm install --frozen-lockfile`; see `port.Manager`. Says which install scripts did not run."""
        self._refuse_plug_and_play()
        if not self.lock:
            port.warn_of_missing_lock(self.context.log, pnpm_release.NAME, self.command)
        output = self._install(order, "--prefer-offline" if order.cache else "")
        if packages := pnpm_failures.ignored_scripts(output):
            self.context.log.warning(pnpm_failures.ignored_scripts_warning(packages))

    def prune(self, order: Order) -> None:
        """Runs `pnpm install --prod`, which works for all projects of a workspace, unlike `pnpm prune`.

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
            remove_unneeded_packages(order.directory, {"": workspace.root, **kept})

    def rebuild(self, directory: Path) -> None:
        """Runs `pnpm rebuild`, which runs only the install scripts that the settings allow.

        Runs `npm rebuild` instead for modules of another manager, and if pnpm would run all scripts and need
        its store.
        """
        is_own = (directory / "node_modules/.modules.yaml").is_file()
        if is_own and major(self.version) >= _ASKS:
            self._pnpm(Order(directory, dev=True), "rebuild")
        else:
            rebuild_with_npm(self.context, directory, self.env)

    def _install(self, order: Order, *options: str) -> str:
        lock = ("--frozen-lockfile",) if self.lock else ("--no-lockfile", "--no-frozen-lockfile")
        chosen = (f"--filter={name}" for name in order.focus)
        kind = () if order.dev else ("--prod",)
        # These are options, because settings of the project win over variables.
        layout = (
            "--virtual-store-dir=node_modules/.pnpm",
            # Not clone-or-copy, which makes hard links if it cannot clone.
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
            # pnpm answers its own questions.
            "CI": "true",
            "npm_config_nodedir": self.runtime.headers,
            "XDG_STATE_HOME": str(home / "state"),
            **self._ordered_reads,
            **_variables(
                cache_dir=str(home / "cache"), fetch_retry_mintimeout="1000", fetch_retry_maxtimeout="5000"
            ),
        }
        with npm.merge_npmrcs(self.context, self.project) as access:
            try:
                return self.context.run(argv, cwd=order.directory, env={**env, **access})
            except sdk.CommandFailed as failure:
                raise pnpm_failures.pnpm_error(failure, self.project.directory) from failure

    @property
    def _ordered_reads(self) -> Mapping[str, str]:
        """Makes pnpm handle the projects of a workspace in the order of their paths.

        pnpm 10 and older handle them in the order in which reading their settings ends, so either of two
        versions of a package may be hoisted. With one thread, reads end in the order in which they begin.
        Other threads copy the packages.
        """
        is_several = (self.project.directory / WORKSPACE).is_file()
        return {"UV_THREADPOOL_SIZE": "1"} if is_several and major(self.version) < _ORDERS else {}

    @property
    def _injected_member(self) -> str:
        """A member that pnpm copies instead of linking, as the lockfile says, or else the setting for it."""
        lock = self.project.directory / pnpm_release.NAME
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
        """The texts with pnpm's settings, by their places."""
        yield "package.json pnpm", json.dumps(self.project.manifest.get("pnpm", {}))
        path = self.project.directory / WORKSPACE
        yield WORKSPACE, path.read_text(errors="replace") if path.is_file() else ""

    @cached_property
    def _patches(self) -> tuple[str, ...]:
        """The patches that settings name, by their paths."""
        named = {path.removeprefix("./") for _, text in self._texts for path in find_patches(text)}
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


def find_patches(text: str) -> Iterator[str]:
    """The paths of the patches that a text names."""
    for word in _WORD.findall(text):
        ends = [found.end() for found in _PATCH.finditer(word)]
        if ends:
            yield word[: ends[-1]]


def is_recursive(script: str) -> bool:
    """Whether one of the commands lets pnpm run scripts in several projects."""
    for command in _COMMAND.split(script):
        call = _CALL.search(command)
        if call and _RECURSIVE.search(command, call.end()):
            return True
    return False


def _variables(**values: str) -> dict[str, str]:
    """Settings as variables. Until pnpm 10 they have the names of npm's variables, since 11 their own."""
    return {f"{prefix}_config_{name}": value for name, value in values.items() for prefix in ("npm", "pnpm")}
