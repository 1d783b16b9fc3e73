"""A workbench for buildpack authors: runs `bin/detect` and `bin/build` as a lifecycle would, repeatedly.

Called by tests of buildpacks. Between two builds it brings back of each layer what a lifecycle restores
(B-042 to B-051), as if the image and the cache of the last build were there. It is no sandbox: the buildpack
runs as the test's own user, with the host's tools.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packhorse.base import gotoml
from packhorse.base.target import Target

# What a lifecycle lets through from its own environment.
_INHERITED = (
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_NO_LAYERS = {"build.toml", "launch.toml", "store.toml"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an executable ended: its status, and standard output and standard error together."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class Workbench:
    """A buildpack directory, an application's source, and a scratch directory where both meet.

    `env` has the user's variables, as `<platform>/env` would; `exec_env` is CNB_EXEC_ENV.
    """

    buildpack: Path
    source: Path
    scratch: Path
    env: Mapping[str, str] = field(default_factory=dict)
    exec_env: str = "production"

    @property
    def app(self) -> Path:
        """The application's directory of the last run."""
        return self.scratch / "app"

    @property
    def layers(self) -> Path:
        """This buildpack's layers directory."""
        return self.scratch / "layers"

    def detect(self) -> Outcome:
        """Runs `bin/detect` on a fresh copy of the source."""
        self._lay_out()
        return self._run("detect", {"CNB_BUILD_PLAN_PATH": self._plan})

    def build(self) -> Outcome:
        """Runs `bin/build` on a fresh copy of the source, with what is kept of the last build.

        A build that failed leaves nothing to the next one.
        """
        self._lay_out()
        self._restore()
        requires = self._read(self._plan).get("requires", [])
        entries = self.scratch / "entries.toml"
        entries.write_bytes(gotoml.dumps({"entries": requires} if requires else {}))
        outcome = self._run("build", {"CNB_LAYERS_DIR": self.layers, "CNB_BP_PLAN_PATH": entries})
        if outcome.status != 0:
            shutil.rmtree(self.layers)
        return outcome

    def launch(self) -> Mapping[str, Any]:
        """The content of `launch.toml`; empty when the buildpack wrote none."""
        return self._read(self.layers / "launch.toml")

    def plan(self) -> Mapping[str, Any]:
        """The build plan of the last detection; empty when there was none."""
        return self._read(self._plan)

    @property
    def _plan(self) -> Path:
        return self.scratch / "plan.toml"

    def _lay_out(self) -> None:
        shutil.rmtree(self.app, ignore_errors=True)
        shutil.copytree(self.source, self.app, symlinks=True)
        platform = self.scratch / "platform/env"
        shutil.rmtree(platform, ignore_errors=True)
        platform.mkdir(parents=True)
        for name, value in self.env.items():
            (platform / name).write_text(value)
        self.layers.mkdir(exist_ok=True)

    def _restore(self) -> None:
        """Keeps directories of cached layers and metadata without types; all else goes (B-046 to B-051)."""
        for path in sorted(self.layers.glob("*.toml")):
            if path.name in _NO_LAYERS:
                if path.name != "store.toml":
                    path.unlink()
                continue
            table = self._read(path)
            types = table.get("types", {})
            directory = path.with_suffix("")
            cached = types.get("cache", False)
            if not cached and directory.is_dir():
                shutil.rmtree(directory)
            if cached or (types.get("launch", False) and not types.get("build", False)):
                path.write_bytes(gotoml.dumps({"metadata": table.get("metadata", {})}))
            else:
                path.unlink()

    def _run(self, phase: str, paths: Mapping[str, Path]) -> Outcome:
        host = Target.host()
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        env |= self.env
        env |= {
            "CNB_BUILDPACK_DIR": str(self.buildpack),
            "CNB_EXEC_ENV": self.exec_env,
            "CNB_PLATFORM_DIR": str(self.scratch / "platform"),
            "CNB_TARGET_ARCH": host.arch,
            "CNB_TARGET_OS": host.os,
        }
        env |= {name: str(path) for name, path in paths.items()}
        ended = subprocess.run(
            [self.buildpack / "bin" / phase],
            cwd=self.app,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return Outcome(ended.returncode, ended.stdout.decode("utf-8", "replace"))

    def _read(self, path: Path) -> dict[str, Any]:
        return tomllib.loads(path.read_text()) if path.exists() else {}
