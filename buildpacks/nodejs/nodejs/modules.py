"""The application's dependencies: installed into a layer where that can be, else inside the application.

On the arrow plan → layers. Called by `nodejs.buildpack`; how modules get to a place is the package manager's
(`managers.port`). In a layer they are kept from build to build, and `node_modules` of the application is a
link to it; Node.js resolves the link, so `package.json` is linked beside them for modules that look for it
upwards. Some applications need a real directory (`Project.inside_reason`), and so do some managers.

Build scripts run with the devDependencies present; the image has none of these in production.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packhorse import sdk

from . import residue
from .managers.port import Manager, Order
from .project import Project
from .runtime import Runtime


@dataclass(frozen=True, slots=True)
class Installation:
    """One application being equipped by one Node.js and one package manager."""

    context: sdk.BuildContext
    project: Project
    runtime: Runtime
    manager: Manager
    scripts: tuple[str, ...]

    @property
    def keeps_dev(self) -> bool:
        """Whether the image needs the devDependencies: anywhere but in production (B-007)."""
        return self.context.exec_env != "production"

    def provide(self) -> tuple[tuple[str, ...], ...]:
        """Installs, runs the build scripts, leaves what launch needs; returns the application's slices.

        Slices of their own are in the registry already when only the source changed. Raises InputError when
        the lock does not match, NetworkError, FormatError for a package that is not the published one, and
        BuildpackFailed when a script fails.
        """
        if self.project.vendored:
            return self._vendored()
        reason = self.project.inside_reason or self.manager.inside_reason
        if reason:
            return self._inside(reason)
        self._in_layers()
        return ()

    def _vendored(self) -> tuple[tuple[str, ...], ...]:
        self.context.log.warning(
            "node_modules comes with the source and is used as it is; to have it installed by "
            f"{self.manager.name} instead, keep it out of the source"
        )
        self.manager.rebuild(self.project.directory)
        self._run_scripts()
        residue.remove(self.project.directory / "node_modules")
        return (self.manager.slice,)

    def _inside(self, reason: str) -> tuple[tuple[str, ...], ...]:
        self.context.log.detail(f"node_modules is a directory of the application: {reason}")
        key = {self.manager.name: self.manager.version, **_there(self.manager.key)}
        cache = self.context.layer(f"{self.manager.name.lower()}-cache", key=key, cache=True)
        with_dev = self.keeps_dev or self.project.has_dev_dependencies
        order = Order(self.project.directory, dev=with_dev, cache=cache.path)
        self.manager.install(order)
        self._run_scripts()
        if with_dev and not self.keeps_dev:
            self.manager.prune(order)
        modules = self.project.directory / "node_modules"
        if modules.is_dir():
            residue.remove(modules)
        there = any(any(self.project.directory.glob(pattern)) for pattern in self.manager.slice)
        return (self.manager.slice,) if there else ()

    def _in_layers(self) -> None:
        link = self.project.directory / "node_modules"
        if self.scripts:
            if self.project.has_dependencies or self.project.has_dev_dependencies:
                _link(link, self._layer("modules-build", dev=True, launch=False))
            self._run_scripts()
        if self.project.has_dependencies or (self.keeps_dev and self.project.has_dev_dependencies):
            _link(link, self._layer("modules", dev=self.keeps_dev, launch=True))
        else:
            _unlink(link)

    def _layer(self, name: str, *, dev: bool, launch: bool) -> Path:
        """Makes or keeps a layer of modules; returns its node_modules."""
        update = not self.manager.locked and self.context.env.get("BP_NODE_UPDATE") == "1"
        renew = "BP_NODE_UPDATE asks for newer modules" if update else ""
        layer = self.context.layer(
            name, key=self._key(dev=dev), launch=launch, build=not launch, cache=True, renew=renew
        )
        modules = layer.path / "node_modules"
        if layer.kept:
            return modules
        for file in ("package.json", *self.manager.files):
            source = self.project.directory / file
            if source.exists():
                (layer.path / file).symlink_to(source)
        modules.mkdir()
        self.manager.install(Order(layer.path, dev=dev))
        for file in self.manager.files:
            (layer.path / file).unlink(missing_ok=True)
        residue.remove(modules)
        return modules

    def _key(self, *, dev: bool) -> dict[str, str]:
        """All that the installed files depend on, in words; what is not there is left out."""
        distro = self.context.target.distro
        return _there(
            {
                "Node.js line": self.runtime.version.partition(".")[0],
                self.manager.name: self.manager.version,
                "architecture": self.context.target.arch,
                "distribution": f"{distro.name} {distro.version}" if distro else "",
                "dependencies": self.project.dependencies_digest,
                **self.manager.key,
                "devDependencies": "with" if dev else "without",
                "NODE_ENV": self.context.env.get("NODE_ENV", ""),
            }
        )

    def _run_scripts(self) -> None:
        for script in self.scripts:
            self.manager.run(script, self.project.directory)


def build_scripts(project: Project, setting: str | None) -> tuple[str, ...]:
    """The scripts to run: those of BP_NODE_RUN_SCRIPTS (comma-separated), else `build` if there is one."""
    if setting is not None:
        return tuple(name.strip() for name in setting.split(",") if name.strip())
    return ("build",) if "build" in project.scripts else ()


def _there(key: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in key.items() if value}


def _link(link: Path, target: Path) -> None:
    _unlink(link)
    link.symlink_to(target)


def _unlink(link: Path) -> None:
    """Removes the link, or the leftovers (`.cache`) of a node_modules that has no module."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)
