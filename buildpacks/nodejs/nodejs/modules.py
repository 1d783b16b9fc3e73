"""The application's dependencies: installed into a layer where that can be, else inside the application.

On the arrow plan → layers. Called by `nodejs.buildpack`. In a layer they are kept from build to build, and
`node_modules` of the application is a link to it; Node.js resolves the link, so `package.json` is linked
beside them for modules that look for it upwards. Some applications need a real directory
(`Project.inside_reason`).

Build scripts run with the devDependencies present; the image has none of these in production.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from packhorse import sdk

from . import residue
from .npm import Registry, explained, script_failed
from .project import Project
from .runtime import Runtime

# An application slice of their own: the registry already has the layer when only the source changed.
_SLICE = ("node_modules",)


@dataclass(frozen=True, slots=True)
class Installation:
    """One application being equipped by one Node.js."""

    context: sdk.BuildContext
    project: Project
    runtime: Runtime
    scripts: tuple[str, ...]

    @property
    def keeps_dev(self) -> bool:
        """Whether the image needs the devDependencies: anywhere but in production (B-007)."""
        return self.context.exec_env != "production"

    def provide(self) -> tuple[tuple[str, ...], ...]:
        """Installs, runs the build scripts, leaves what launch needs; returns the application's slices.

        Raises InputError when the lock does not match, NetworkError, FormatError for a package that is not
        the published one, and BuildpackFailed when a script fails.
        """
        if self.project.vendored:
            return self._vendored()
        reason = self.project.inside_reason
        if reason:
            return self._inside(reason)
        self._in_layers()
        return ()

    def _vendored(self) -> tuple[tuple[str, ...], ...]:
        self.context.log.warning(
            "node_modules comes with the source and is used as it is; to have it installed from "
            f"{self.project.lock or 'package.json'} instead, keep it out of the source"
        )
        self._npm("rebuild")
        self._run_scripts()
        residue.remove(self.project.directory / "node_modules")
        return (_SLICE,)

    def _inside(self, reason: str) -> tuple[tuple[str, ...], ...]:
        self.context.log.detail(f"node_modules is a directory of the application: {reason}")
        key = {"npm": self.runtime.npm}
        if self.project.lock:
            key[self.project.lock] = self.project.lock_digest
        cache = self.context.layer("npm-cache", key=key, cache=True)
        with_dev = self.keeps_dev or self.project.has_dev_dependencies
        self._install(self.project.directory, dev=with_dev, cache=cache.path)
        self._run_scripts()
        if with_dev and not self.keeps_dev:
            self._npm("prune", "--omit=dev", cache=cache.path)
        modules = self.project.directory / "node_modules"
        if not modules.is_dir():
            return ()
        residue.remove(modules)
        return (_SLICE,)

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
        update = not self.project.lock and self.context.env.get("BP_NODE_UPDATE") == "1"
        renew = "BP_NODE_UPDATE asks for newer modules" if update else ""
        layer = self.context.layer(
            name, key=self._key(dev=dev), launch=launch, build=not launch, cache=True, renew=renew
        )
        modules = layer.path / "node_modules"
        if layer.kept:
            return modules
        manifests = [name for name in ("package.json", self.project.lock, ".npmrc") if name]
        for manifest in manifests:
            source = self.project.directory / manifest
            if source.is_file():
                (layer.path / manifest).symlink_to(source)
        modules.mkdir()
        self._install(layer.path, dev=dev)
        for manifest in manifests[1:]:
            (layer.path / manifest).unlink(missing_ok=True)
        residue.remove(modules)
        return modules

    def _key(self, *, dev: bool) -> dict[str, str]:
        """All that the installed files depend on, in words; what is not there is left out."""
        distro = self.context.target.distro
        key = {
            "Node.js line": self.runtime.version.partition(".")[0],
            "npm": self.runtime.npm,
            "architecture": self.context.target.arch,
            "distribution": f"{distro.name} {distro.version}" if distro else "",
            "dependencies": self.project.dependencies_digest,
            self.project.lock: self.project.lock_digest,
            ".npmrc": self.project.npmrc_digest,
            "devDependencies": "with" if dev else "without",
            "NODE_ENV": self.context.env.get("NODE_ENV", ""),
        }
        return {name: value for name, value in key.items() if value}

    def _install(self, directory: Path, *, dev: bool, cache: Path | None = None) -> None:
        kind = "--include=dev" if dev else "--omit=dev"
        if self.project.lock:
            self._npm("ci", kind, *(["--prefer-offline"] if cache else []), directory=directory, cache=cache)
            return
        self.context.log.warning(
            "there is no package-lock.json, so the newest versions that fit are installed; "
            "run `npm install` and commit the lock to have the same ones each time"
        )
        self._npm("install", "--no-package-lock", kind, directory=directory, cache=cache)

    def _npm(self, *args: str, directory: Path | None = None, cache: Path | None = None) -> None:
        # The build image's npm knows the machine's registry, proxy and certificates; ours has another prefix.
        env = {**self.runtime.env, "npm_config_globalconfig": Registry(self.context).global_config()}
        if cache is not None:
            env |= {"npm_config_cache": str(cache), "npm_config_logs_max": "0"}
        try:
            self.context.run(["npm", *args], cwd=directory, env=env)
        except sdk.CommandFailed as failure:
            raise explained(failure) from failure

    def _run_scripts(self) -> None:
        for script in self.scripts:
            try:
                self.context.run(["npm", "run", script], env=self.runtime.env)
            except sdk.CommandFailed as failure:
                raise script_failed(failure, script) from failure


def build_scripts(project: Project, setting: str | None) -> tuple[str, ...]:
    """The scripts to run: those of BP_NODE_RUN_SCRIPTS (comma-separated), else `build` if there is one."""
    if setting is not None:
        return tuple(name.strip() for name in setting.split(",") if name.strip())
    return ("build",) if "build" in project.scripts else ()


def _link(link: Path, target: Path) -> None:
    _unlink(link)
    link.symlink_to(target)


def _unlink(link: Path) -> None:
    """Removes the link, or the leftovers (`.cache`) of a node_modules that has no module."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)
