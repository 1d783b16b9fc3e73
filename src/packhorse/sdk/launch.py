"""What a buildpack hands back from its build: processes, labels, slices, unmet entries and its store.

On the arrow plan → layers (buildpack.md "launch.toml", "build.toml", "store.toml"). Made by a buildpack's
build function, written by `sdk.program`. Layers are not here: `sdk.layer` writes them as they are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packhorse.sdk import arguments


@dataclass(frozen=True, slots=True)
class Process:
    """A command the image can start; `command` is always passed, `args` only until the user gives others.

    The command is executed as it is, without a shell. An empty `working_dir` is the application's directory.
    """

    type: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    default: bool = False
    working_dir: str = ""
    exec_env: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        arguments.process_type("the type of a process", self.type)
        arguments.texts(f"the command of process {self.type}", self.command, at_least=1)
        arguments.texts(f"args of process {self.type}", self.args)
        arguments.text(f"working_dir of process {self.type}", self.working_dir)
        arguments.texts(f"exec_env of process {self.type}", self.exec_env)

    def table(self) -> dict[str, object]:
        """The process as an entry of `[[processes]]`; what is empty is left out."""
        entries: dict[str, object] = {
            "type": self.type,
            "command": list(self.command),
            "args": list(self.args),
            "default": self.default,
            "working-dir": self.working_dir,
            "exec-env": list(self.exec_env),
        }
        return {key: value for key, value in entries.items() if value}


@dataclass(frozen=True, slots=True)
class Launch:
    """What the image is told: processes, labels, and the globs of each application slice."""

    processes: tuple[Process, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        arguments.all_of("processes", self.processes, Process)
        arguments.table("labels", self.labels)
        if isinstance(self.slices, str):
            arguments.texts("slices", self.slices)
        for globs in self.slices:
            arguments.texts("a slice", globs)

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
    """The end of a build; `unmet` names plan entries left to the next buildpack that provides them.

    `store` replaces the buildpack's persistent metadata; None leaves what the last build stored.
    """

    launch: Launch = Launch()
    unmet: tuple[str, ...] = ()
    store: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        arguments.one_of_kind("the first argument of BuildResult", self.launch, Launch)
        arguments.texts("unmet", self.unmet)
        if self.store is not None:
            arguments.one_of_kind("store", self.store, Mapping)
