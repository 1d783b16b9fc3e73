"""A workbench for tests of buildpacks: runs `bin/detect` and `bin/build` as a lifecycle would, repeatedly.

Called by tests of buildpacks. Between two builds it restores of each layer what a lifecycle restores (B-042
to B-051), as if the image and the cache of the last build existed. It is not a sandbox: the buildpack runs as
the test's own user, with the host's tools. `build_image` lets packhorse build a whole image instead.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.go_toml import toml_bytes
from packhorse.base.target import Target
from packhorse.errors import BuildpackFailed, HostError, InputError

# What a lifecycle passes on from its own environment, and the certificates for the host's tools.
_INHERITED = (
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "NO_PROXY",
    "PATH",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_IMPORTS_SDK = re.compile(rb"^\s*(?:from|import)\s+packhorse\b", re.MULTILINE)
_OTHER_FILES = {"build.toml", "launch.toml", "store.toml"}
_FORMATS = {"cyclonedx": "cdx.json", "spdx": "spdx.json"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an executable: its status, and standard output and standard error together."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """A layer as the last build left it; `types` has the names of the types that are true."""

    path: Path
    types: frozenset[str]
    key: Mapping[str, str]
    facts: Mapping[str, str]

    def env(self, phase: str = "") -> Mapping[str, str]:
        """The contents of the files of `env`, `env.build` or `env.launch`, by names like `PATH.prepend`."""
        folder = self.path / (f"env.{phase}" if phase else "env")
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): path.read_text() for path in files}

    @property
    def exec_d(self) -> tuple[str, ...]:
        """The programs that run before a launch."""
        folder = self.path / "exec.d"
        return tuple(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


@dataclass(frozen=True, slots=True)
class Workbench:
    """A buildpack directory, an application's source, and a scratch directory where both meet.

    `env` has the user's variables, like `<platform>/env`; `exec_env` is CNB_EXEC_ENV. `bindings` has the
    files of each service binding by its name. With `undo`, a failed build restores what the last good one
    made; this copies all layers before each build.
    """

    buildpack: Path
    source: Path
    scratch: Path
    env: Mapping[str, str] = field(default_factory=dict)
    exec_env: str = "production"
    bindings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    undo: bool = True

    def __post_init__(self) -> None:
        for name in ("buildpack", "source", "scratch"):  # the programs run in another directory
            object.__setattr__(self, name, getattr(self, name).absolute())
        main = self.buildpack / "main.py"
        is_ours = main.is_file() and _IMPORTS_SDK.search(main.read_bytes()) is not None
        if is_ours and not (self.buildpack / "lib/packhorse").exists():
            raise InputError(
                f"{self.buildpack} has no SDK",
                why="a workbench runs a buildpack that is staged",
                fix=f"packhorse buildpack stage {shlex.quote(str(self.buildpack))} DIRECTORY",
            )

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
        self._prepare()
        self._plan.unlink(missing_ok=True)
        return self._run("detect", {"CNB_BUILD_PLAN_PATH": self._plan})

    def build(self) -> Outcome:
        """Runs `bin/build` on a fresh copy of the source, with the restored layers of the last build."""
        self._prepare()
        previous = self.scratch / "previous"
        shutil.rmtree(previous, ignore_errors=True)
        if self.undo:
            shutil.copytree(self.layers, previous, symlinks=True)
        self._restore()
        requires = self._read(self._plan).get("requires", [])
        entries = self.scratch / "entries.toml"
        entries.write_bytes(toml_bytes({"entries": requires} if requires else {}))
        outcome = self._run("build", {"CNB_LAYERS_DIR": self.layers, "CNB_BP_PLAN_PATH": entries})
        if outcome.status != 0 and self.undo:
            shutil.rmtree(self.layers)
            previous.rename(self.layers)
        return outcome

    def launch(self) -> Mapping[str, Any]:
        """The content of `launch.toml`; empty if the buildpack wrote none."""
        return self._read(self.layers / "launch.toml")

    def processes(self) -> Mapping[str, Mapping[str, Any]]:
        """The processes of `launch.toml` by their types."""
        return {process["type"]: process for process in self.launch().get("processes", [])}

    def layer(self, name: str) -> BuiltLayer:
        """The layer of the last build; raises KeyError without one."""
        table = self._read(self.layers / f"{name}.toml")
        if not table:
            raise KeyError(name)
        metadata = table.get("metadata", {})
        return BuiltLayer(
            self.layers / name,
            frozenset(kind for kind, wanted in table.get("types", {}).items() if wanted),
            metadata.get("key", {}),
            metadata.get("facts", {}),
        )

    def sbom(self, part: str, *, format: str = "cyclonedx") -> Mapping[str, Any]:
        """The SBOM of a layer, of `launch` or of `build`; empty without one."""
        path = self.layers / f"{part}.sbom.{_FORMATS[format]}"
        return json.loads(path.read_text()) if path.exists() else {}

    def plan(self) -> Mapping[str, Any]:
        """The build plan of the last detection; empty without one."""
        return self._read(self._plan)

    @property
    def _plan(self) -> Path:
        return self.scratch / "plan.toml"

    def _prepare(self) -> None:
        shutil.rmtree(self.app, ignore_errors=True)
        shutil.copytree(self.source, self.app, symlinks=True)
        platform = self.scratch / "platform"
        shutil.rmtree(platform, ignore_errors=True)
        folders = {f"bindings/{name}": entries for name, entries in self.bindings.items()}
        for folder, files in {"env": self.env, **folders}.items():
            (platform / folder).mkdir(parents=True)
            for name, value in files.items():
                (platform / folder / name).write_text(value)
        self.layers.mkdir(exist_ok=True)

    def _restore(self) -> None:
        """Keeps cached directories, and metadata without types; removes the rest (B-046 to B-051)."""
        for path in sorted(self.layers.glob("*.toml")):
            if path.name in _OTHER_FILES:
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
                path.write_bytes(toml_bytes({"metadata": table.get("metadata", {})}))
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


@dataclass(frozen=True, slots=True)
class Image:
    """An image that packhorse built: `name` in its store, `id`, and what the build printed.

    A `with` block removes it at its end.
    """

    name: str
    id: str
    output: str

    def run(self, *arguments: str, entrypoint: str = "", env: Mapping[str, str] | None = None) -> Outcome:
        """Starts the image in the sandbox and waits for it."""
        options = [word for name, value in (env or {}).items() for word in ("--env", f"{name}={value}")]
        chosen = ["--entrypoint", entrypoint] if entrypoint else []
        # Quiet: the output is the image's alone, without progress of a slow machine.
        return _packhorse("--quiet", "run", *options, *chosen, self.name, *arguments)

    def remove(self) -> None:
        """Removes it from the store."""
        _packhorse("rmi", self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.remove()


def build_image(
    name: str,
    buildpack: Path,
    source: Path,
    *,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Image:
    """Builds `source` with a buildpack in packhorse's sandbox; `options` are added to its command.

    Raises BuildpackFailed with the output if the build fails, and HostError without packhorse.
    """
    variables = [word for key, value in (env or {}).items() for word in ("--env", f"{key}={value}")]
    given = ["--path", str(source), "--buildpack", str(buildpack), *variables, *options]
    built = _packhorse("build", name, *given)
    if built.status != 0:
        raise BuildpackFailed(f"packhorse build {name} failed (exit status {built.status})", why=built.output)
    shown = _packhorse("inspect", "--output", "json", name)
    return Image(name, json.loads(shown.output)["id"], built.output)


def _packhorse(*arguments: str) -> Outcome:
    found = shutil.which("packhorse")
    command = [found] if found else [sys.executable, "-m", "packhorse.cli.start"]
    if not found and importlib.util.find_spec("packhorse.cli") is None:
        raise HostError("there is no packhorse to build with", fix="pip install packhorse, or put it on PATH")
    ended = subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Outcome(ended.returncode, ended.stdout.decode("utf-8", "replace"))
