"""Installs the application's dependencies into a layer if possible, else inside the application.

Called by `buildpack`. The package manager installs (`managers.port`); this module decides where. Modules in a
layer are kept from build to build. Some applications need real directories (`Workspace.inside_reason`), and
so do some managers and build scripts that write into node_modules. For these everything is installed again
inside the application, and the next build does so at once.

Build scripts run with the devDependencies present. In production the image has none of them, and of a
workspace only the members that the application needs.

node_modules in the source are used only without a lockfile, or if BP_NODE_VENDORED asks for it: most working
copies have development tools there, and native code of another machine.

A manager's own record of what it installed is kept in a layer beside the modules. With it the manager can
install changes only. The image does not have the record, because it names machines and times.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field

from . import build_scripts, credentials, node_modules, versions
from .build_scripts import Task
from .managers.port import IncrementalInstaller, Manager, Order
from .node_modules import delete, explain_refusal
from .project import digest
from .runtime import Runtime
from .workspace import Workspace

VENDORED_SETTING = "BP_NODE_VENDORED"
_MODULES = "node_modules"


def settle_vendored(context: sdk.BuildContext, workspace: Workspace, lock: str) -> bool:
    """Whether the source's node_modules are used as they are; if not, removes them.

    BP_NODE_VENDORED decides. Without it they are used if there is no `lock` and .gitignore does not name
    them. Raises InputError for a setting that cannot be followed.
    """
    wanted = versions.read_switch(context.env, VENDORED_SETTING)
    if not workspace.root.vendored:
        if wanted:
            raise InputError(
                f"{VENDORED_SETTING} is set, and the source has no {_MODULES}",
                why=f"there is no package in {workspace.root.directory / _MODULES}",
                fix=f"remove {VENDORED_SETTING} to install them, or put {_MODULES} into the source",
            )
    elif wanted or (wanted is None and not lock and not _is_ignored(workspace)):
        return True
    else:
        reason = f"{lock} says what to install" if lock else "it is not part of the source (.gitignore)"
        reason = f"{VENDORED_SETTING} is off" if wanted is False else reason
        uses = "" if wanted is False else f"; {VENDORED_SETTING}=1 uses it"
        context.log.detail(f"{_MODULES} of the source is left out: {reason}{uses}")
    for path in ("", *workspace.members):
        modules = workspace.root.directory / path / _MODULES
        if modules.is_dir() and not modules.is_symlink():
            with explain_refusal(f"{_MODULES} of the source"):
                delete(modules)
    return False


def _is_ignored(workspace: Workspace) -> bool:
    """Whether .gitignore of the project names node_modules."""
    path = workspace.root.directory / ".gitignore"
    if not path.is_file():
        return False
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return any(line.strip().removeprefix("**").strip("/") == _MODULES for line in lines)


def record_layer(layer: str) -> str:
    """The name of the layer with the record of another layer."""
    return f"{layer}-record"


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """The record called `file` of the modules in `layer`, made from `key`."""

    context: sdk.BuildContext
    layer: sdk.Layer
    key: Mapping[str, str]
    file: str

    @property
    def name(self) -> str:
        """The name of the layer with the record."""
        return record_layer(self.layer.name)

    def read_previous(self) -> bytes:
        """Reads the last build's record of outdated modules; empty if it is missing or of other modules.

        Must be called before `save`.
        """
        decision = self.layer.decision
        if not isinstance(decision, sdk.Outdated):
            return b""
        if self.context.recall(self.name).get("key") != _digest_key(decision.before):
            return b""
        path = self.context.layers / self.name / self.file
        return path.read_bytes() if path.is_file() else b""

    def save(self) -> None:
        """Saves the record for the next build."""
        key = _digest_key(self.key)
        kept = self.context.layer(self.name, key={self.layer.name: key}, cache=True, facts={"key": key})
        made = self.layer.path / "node_modules" / self.file
        if not kept.kept and made.is_file():
            (kept.path / self.file).write_bytes(made.read_bytes())


def _digest_key(key: Mapping[str, str]) -> str:
    return digest(json.dumps(key, sort_keys=True).encode())


_LAYERS = ("modules", "modules-build")
_WRITING_SCRIPTS = "scripts that write into node_modules"


@dataclass(frozen=True, slots=True)
class Installation:
    """Installs the modules of one application with one Node.js and one package manager; `tasks` build it.

    `lock` is the name of the manager's lockfile, empty without one.
    """

    context: sdk.BuildContext
    workspace: Workspace
    runtime: Runtime
    manager: Manager
    tasks: tuple[Task, ...]
    lock: str
    _layers_taken: set[str] = field(default_factory=set)
    _linked_layers: list[sdk.Layer] = field(default_factory=list)

    @property
    def complete_layer(self) -> sdk.Layer | None:
        """The layer with all modules of the image, after `provide`; None if they are elsewhere."""
        alone = not (self.workspace.members or self.workspace.is_member)
        return self._linked_layers[-1] if self._linked_layers and alone else None

    @property
    def keeps_dev(self) -> bool:
        """Whether the image needs the devDependencies: always except in production (B-007)."""
        return self.context.exec_env != "production"

    def provide(self) -> tuple[tuple[str, ...], ...]:
        """Installs, runs the build scripts, and leaves what launch needs; returns the application's slices.

        If only the source changes, the registry already has the slices with modules. Raises InputError if the
        lockfile does not match, NetworkError, FormatError for a package that is not the published one, and
        BuildpackFailed if a script fails.
        """
        if settle_vendored(self.context, self.workspace, self.lock):
            slices = self._use_vendored()
        elif self.manager.linker == "pnp":
            slices = self._install_plugnplay()
        elif reason := self.workspace.inside_reason or self.manager.inside_reason:
            slices = self._install_inside(reason)
        elif (
            self.tasks and self.context.recall(self._cache_name).get(_WRITING_SCRIPTS) == self._scripts_digest
        ):
            slices = self._install_inside("in the last build the scripts wrote into it", writing=True)
        else:
            slices = self._install_in_layers()
        node_modules.remove_manager_files(self.workspace.root.directory)
        self._unlink_generated()
        for name in sorted({*_LAYERS, *map(record_layer, _LAYERS)} - self._layers_taken):
            # Of the last build, when the modules were elsewhere.
            delete(self.context.layers / name)
            delete(self.context.layers / f"{name}.toml")
        if not self.keeps_dev:
            self._remove_unneeded()
        return slices

    def _use_vendored(self) -> tuple[tuple[str, ...], ...]:
        self.context.log.warning(
            "node_modules comes with the source and is used as it is, with its devDependencies; to let "
            f"{self.manager.name} install it instead, add a lockfile, or set {VENDORED_SETTING}=0"
        )
        self.manager.rebuild(self.workspace.root.directory)
        self._run_tasks()
        node_modules.clean_modules(self.workspace.root.directory / "node_modules")
        return (self.manager.slice,)

    def _install_inside(self, reason: str, *, writing: bool = False) -> tuple[tuple[str, ...], ...]:
        root = self.workspace.root.directory
        self.context.log.detail(f"node_modules is a directory of the application: {reason}")
        cache = self._cache({_WRITING_SCRIPTS: self._scripts_digest} if writing else {})
        with_dev = self.keeps_dev or self.workspace.has_dev_dependencies
        self.manager.install(self._order(root, dev=with_dev, cache=cache))
        written = self._find_script_changes(root) if writing else ()
        if not writing:
            self._run_tasks()
        made = [path for path in written if _is_module(path) and os.path.lexists(root / path)]
        if with_dev and not self.keeps_dev:
            self.manager.prune(self._order(root, dev=False, cache=cache))
            gone = tuple(path for path in made if not os.path.lexists(root / path))
            if gone:
                self.context.log.warning(
                    f"the build scripts wrote {_shorten(gone)}, which {self.manager.name} removed with the "
                    "devDependencies; have them write into a folder of the source, or one like "
                    "node_modules/.generated"
                )
        for path in ("", *self.workspace.members):
            modules = root / path / "node_modules"
            if modules.is_dir() and not modules.is_symlink():
                node_modules.clean_modules(modules)
            node_modules.clean_gyp_folder(root / path / "build")
        there = any(any(root.glob(pattern)) for pattern in self.manager.slice)
        return (self.manager.slice,) if there else ()

    def _install_plugnplay(self) -> tuple[tuple[str, ...], ...]:
        from . import plugnplay

        root, scripts = self.workspace.root.directory, self.workspace.inside_reason
        if scripts:
            self.context.log.detail(f"{self.manager.name} runs in every build: {scripts}")
        remembered = self.context.recall(self._cache_name).get(_WRITING_SCRIPTS) == self._scripts_digest
        wrote = "in the last build the scripts wrote into it" if self.tasks and remembered else ""
        made: sdk.Layer | None = None
        written: tuple[str, ...] = ()
        if self.tasks or scripts:
            if self.workspace.has_dependencies(dev=True):
                made = self._plugnplay_layer(
                    "modules-build", dev=True, launch=False, renew=scripts, wrote=wrote
                )
                written = self._find_script_changes(made.path / plugnplay.UNPLUGGED)
            else:
                self._run_tasks()
        plugnplay.remove_map(root)
        if written:
            self.context.log.detail(
                f"the build scripts wrote into packages ({_shorten(written)}), which the image needs too"
            )
            wrote = "the build scripts write into it"
        if self.workspace.has_dependencies(dev=self.keeps_dev):
            layer = self._plugnplay_layer(
                "modules", dev=self.keeps_dev, launch=True, renew=scripts, wrote=wrote, written=bool(written)
            )
            if made:
                plugnplay.copy_changes(written, made.path, layer.path)
        if made and written:
            # The next build must not find what the scripts wrote.
            delete(made.path)
            (self.context.layers / f"{made.name}.toml").unlink()
        return ()

    def _plugnplay_layer(
        self, name: str, *, dev: bool, launch: bool, renew: str, wrote: str, written: bool = False
    ) -> sdk.Layer:
        """Makes or keeps a layer of packages for Plug'n'Play, and puts its map into the application.

        `wrote` is the reason to make it again if scripts write into packages and `renew` is empty. `written`
        says that it has to have what they wrote.
        """
        from . import plugnplay

        root = self.workspace.root.directory
        facts = {_WRITING_SCRIPTS: self._scripts_digest} if wrote and not renew else {}
        renew = renew or wrote
        cache = self._cache(facts) if renew else None
        key = {**self._key(dev=dev), "directory": str(root)}
        if written:
            key["build scripts"] = self._scripts_digest
        layer = self._take_layer(name, key, launch=launch, renew=renew)
        if not layer.kept:
            plugnplay.remove_map(root)
            self.manager.install(self._order(root, dev=dev, cache=cache, into=layer.path))
            plugnplay.save_map(root, layer, made=self.manager.generated_files)
        plugnplay.install_map(root, layer.path, made=self.manager.generated_files)
        return layer

    def _install_in_layers(self) -> tuple[tuple[str, ...], ...]:
        if self.tasks and self.workspace.has_dependencies(dev=True):
            layer = self._modules_layer("modules-build", dev=True, launch=False)
            self._link(layer)
            if written := self._find_script_changes(layer.path):
                self.context.log.detail(
                    f"the build scripts wrote into node_modules ({_shorten(written)}), which the image "
                    "needs: installing again"
                )
                node_modules.unlink_modules(self.workspace)
                self._unlink_generated()
                self._layers_taken.difference_update({layer.name, record_layer(layer.name)})
                delete(layer.path)
                (self.context.layers / f"{layer.name}.toml").unlink()
                return self._install_inside("the build scripts write into it", writing=True)
        else:
            self._run_tasks()
        if self.workspace.has_dependencies(dev=self.keeps_dev):
            layer = self._modules_layer("modules", dev=self.keeps_dev, launch=True)
            self._link(layer)
            self._linked_layers.append(layer)
        else:
            node_modules.unlink_modules(self.workspace)
        return ()

    def _find_script_changes(self, directory: Path) -> tuple[str, ...]:
        """Runs the build scripts; returns the files that they changed in `directory`."""
        before = build_scripts.index_files(directory, self.workspace.members)
        self._run_tasks()
        return build_scripts.find_changes(
            directory, before, build_scripts.index_files(directory, self.workspace.members)
        )

    def _link(self, layer: sdk.Layer) -> None:
        node_modules.link_modules(self.workspace, layer.path)
        self._unlink_generated()
        for name in self.manager.generated_files:
            if (layer.path / name).is_file():
                (self.workspace.root.directory / name).symlink_to(layer.path / name)

    def _unlink_generated(self) -> None:
        for name in self.manager.generated_files:
            delete(self.workspace.root.directory / name)

    def _modules_layer(self, name: str, *, dev: bool, launch: bool) -> sdk.Layer:
        """Makes or keeps a layer of modules."""
        key = self._key(dev=dev)
        amender = None if self.workspace.members or self.workspace.is_member else self.manager.incremental
        layer = self._take_layer(name, key, launch=launch, follows=amender.follows if amender else ())
        record = InstallRecord(self.context, layer, key, amender.record) if amender else None
        if not layer.kept:
            self._install(layer, dev=dev, amender=amender, last=record.read_previous() if record else b"")
        if record:
            self._layers_taken.add(record.name)
            record.save()
        if layer.kept:
            return layer
        files = (*self.manager.files, *(self.manager.generated_files if launch else ()))
        left_out = self.workspace.unneeded_members if launch and not dev else ()
        node_modules.finish_layer(self.workspace, layer.path, files, launch=launch, left_out=left_out)
        return layer

    def _install(
        self, layer: sdk.Layer, *, dev: bool, amender: IncrementalInstaller | None, last: bytes
    ) -> None:
        """Installs into a layer: only what is new since the `last` record if that works, else everything."""
        order = self._order(layer.path, dev=dev)
        if amender and last:
            node_modules.prepare_layer(self.workspace, layer.path, self.manager.files)
            if amender.install_changes(order, last):
                return
            self.context.log.detail(
                "everything is installed again, because the last modules could not be updated safely"
            )
        layer.empty()
        node_modules.prepare_layer(self.workspace, layer.path, self.manager.files)
        self.manager.install(order)

    def _take_layer(
        self,
        name: str,
        key: Mapping[str, str],
        *,
        launch: bool,
        renew: str = "",
        follows: tuple[str, ...] = (),
    ) -> sdk.Layer:
        newer = not self.manager.has_lock and versions.wants_update(self.context.env)
        self._layers_taken.add(name)
        renew = f"{versions.UPDATE_SETTING} asks for newer modules" if newer else renew
        return self.context.layer(
            name, key=key, launch=launch, build=not launch, cache=True, renew=renew, follows=follows
        )

    @property
    def _cache_name(self) -> str:
        return f"{self.manager.name.lower()}-cache"

    @property
    def _scripts_digest(self) -> str:
        """The digest of everything that may decide whether build scripts write into node_modules."""
        tasks = [[task.script, str(task.directory), task.command] for task in self.tasks]
        projects = {"": self.workspace.root, **self.workspace.members}
        scripts = {path: dict(project.scripts) for path, project in projects.items()}
        return digest(json.dumps([tasks, scripts]).encode())

    def _cache(self, facts: Mapping[str, str]) -> Path:
        """A layer for downloads, used if the installed modules themselves are not kept."""
        key = {self.manager.name: self.manager.version, **_without_empty(self.manager.key)}
        return self.context.layer(self._cache_name, key=key, cache=True, facts=facts).path

    def _order(
        self, directory: Path, *, dev: bool, cache: Path | None = None, into: Path | None = None
    ) -> Order:
        focus = self.workspace.needed_members(dev=dev) if self.workspace.is_member else ()
        return Order(directory, dev=dev, cache=cache, focus=self.workspace.names(focus), into=into)

    def _key(self, *, dev: bool) -> dict[str, str]:
        """Everything that the installed files depend on, by readable names, without empty values."""
        distro = self.context.target.distro
        return _without_empty(
            {
                "Node.js line": self.runtime.version.partition(".")[0],
                self.manager.name: self.manager.version,
                "architecture": self.context.target.arch,
                "distribution": f"{distro.name} {distro.version}" if distro else "",
                "dependencies": self.workspace.dependencies_digest,
                **self.manager.key,
                "project": self.workspace.path,
                "devDependencies": "with" if dev else "without",
                "NODE_ENV": self.context.env.get("NODE_ENV", ""),
                **credentials.settings_key(self.context),
                "buildpack": self.context.buildpack.version,
            }
        )

    def _run_tasks(self) -> None:
        if not self.tasks:
            return
        root = self.workspace.root.directory
        kept = build_scripts.framework_caches(
            self.context, root, self.workspace.members, self.runtime.version
        )
        kept.restore()
        for task in self.tasks:
            task.run(self.context, self.manager, root)
        kept.save()

    def _remove_unneeded(self) -> None:
        """Removes the members that the application does not need, if it is a member itself."""
        gone = self.workspace.unneeded_members
        for path in gone:
            delete(self.workspace.root.directory / path)
        for path in ("", *self.workspace.members) if gone else ():
            modules = self.workspace.root.directory / path / "node_modules"
            if not modules.is_symlink():
                node_modules.remove_dangling_links(modules)
                node_modules.remove_dangling_links(modules / ".bin")
                node_modules.remove_dangling_links(modules / ".pnpm/node_modules")
        if gone:
            self.context.log.detail(
                f"left out, because {self.workspace.path} does not need it: {', '.join(gone)}"
            )


def _shorten(paths: tuple[str, ...]) -> str:
    return ", ".join((*paths[:3], "…") if len(paths) > 3 else paths)


def _is_module(path: str) -> bool:
    return "node_modules" in Path(path).parts


def _without_empty(key: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in key.items() if value}
