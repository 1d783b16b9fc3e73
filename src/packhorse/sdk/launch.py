"""Defines the result of a build: processes, labels, slices, unmet entries and the store.

A buildpack's function `build` returns it, and `sdk.program` writes it (buildpack.md "launch.toml",
"build.toml", "store.toml"). Layers are not part of it: `sdk.layer` writes each when the buildpack takes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse.base.dataclass import dataclass, field
from packhorse.errors import BuildError
from packhorse.sdk import arguments


@dataclass(frozen=True, slots=True)
class Process:
    """A command that the image can start. The user can replace `args`, but not `command`.

    No shell runs the command. An empty `working_dir` is the application's directory.
    """

    type: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    default: bool = False
    working_dir: str = ""
    exec_env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arguments.check_process_type("the type of a process", self.type)
        arguments.check_texts(f"the command of process {self.type}", self.command, at_least=1)
        arguments.check_texts(f"args of process {self.type}", self.args)
        arguments.check_bool(f"default of process {self.type}", self.default)
        arguments.check_text(f"working_dir of process {self.type}", self.working_dir)
        arguments.check_texts(f"exec_env of process {self.type}", self.exec_env)

    def table(self) -> dict[str, object]:
        """The process as an entry of `[[processes]]`, without empty values."""
        entries: dict[str, object] = {
            "type": self.type,
            "command": list(self.command),
            "args": list(self.args),
            "default": self.default,
            "working-dir": self.working_dir,
            "exec-env": list(self.exec_env),
        }
        return {key: value for key, value in entries.items() if value}


def _check_processes(processes: tuple[Process, ...]) -> None:
    """Raises BuildError for two processes of one type, and for two defaults (B-134, B-138)."""
    types = [process.type for process in processes]
    twice = next((type for type in types if types.count(type) > 1), None)
    if twice is not None:
        raise BuildError(f"there are several processes of type {twice}", fix="give each a type of its own")
    defaults = [process.type for process in processes if process.default]
    if len(defaults) > 1:
        raise BuildError(
            f"the processes {', '.join(defaults)} are all the default", fix="write default=True for one only"
        )


@dataclass(frozen=True, slots=True)
class Launch:
    """The image's processes, its labels, and the globs of each application slice."""

    processes: tuple[Process, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        arguments.check_all("processes", self.processes, Process)
        _check_processes(self.processes)
        arguments.check_table("labels", self.labels)
        if isinstance(self.slices, str):
            arguments.check_texts("slices", self.slices)
        for globs in self.slices:
            arguments.check_texts("a slice", globs)

    def table(self) -> dict[str, object]:
        """The content of `launch.toml`."""
        tables: dict[str, object] = {
            "labels": [{"key": key, "value": value} for key, value in self.labels.items()],
            "processes": [process.table() for process in self.processes],
            "slices": [{"paths": list(paths)} for paths in self.slices],
        }
        return {key: value for key, value in tables.items() if value}


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build. `unmet` names plan entries that the next buildpack has to provide.

    `store` replaces the buildpack's persistent metadata; None keeps the metadata of the last build.
    """

    launch: Launch = Launch()
    unmet: tuple[str, ...] = ()
    store: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        arguments.check_type("the first argument of BuildResult", self.launch, Launch)
        arguments.check_texts("unmet", self.unmet)
        if self.store is not None:
            arguments.check_type("store", self.store, Mapping)
            arguments.check_toml("store", self.store)
