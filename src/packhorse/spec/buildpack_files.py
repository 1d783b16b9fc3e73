"""② Reads and writes the TOML files that the lifecycle and a buildpack exchange (buildpack.md "Data Format").

`PlanToml` is what bin/detect writes, and `BuildpackPlan` what bin/build gets. `LayerToml` is
`<layers>/<layer>.toml`. `LaunchToml`, `BuildToml` and `StoreToml` are a buildpack's other files. The phases
of `lifecycle` call them; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.go_toml import sort_maps, toml_bytes
from packhorse.base.toml import Table, Warn
from packhorse.errors import ExportError, FormatError
from packhorse.spec.api import COMMAND_LIST, WORKING_DIR, BuildpackApi
from packhorse.spec.buildpack_toml import Ref


@dataclass(frozen=True, slots=True)
class Require:
    """A dependency that a buildpack asks for. `metadata` is None if the table is absent."""

    name: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanAlternative:
    """One alternative of a build plan: the names that it provides, and the dependencies that it requires."""

    provides: tuple[str, ...] = ()
    requires: tuple[Require, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanToml:
    """A build plan: its alternatives, first the top level, then each `[[or]]` (B-026, B-027)."""

    alternatives: tuple[PlanAlternative, ...] = (PlanAlternative(),)

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a build plan; an empty file is one empty alternative. Raises InputError."""
        top = Table.read(data, source, warn)
        options = (_read_alternative(top), *(_read_alternative(table) for table in top.tables("or")))
        top.finish()
        return cls(options)


@dataclass(frozen=True, slots=True)
class BuildpackPlan:
    """The plan entries that one bin/build has to meet (B-062)."""

    entries: tuple[Require, ...]

    def dump(self) -> bytes:
        """Returns the content of the file at CNB_BP_PLAN_PATH."""
        entries = [{"name": entry.name, "metadata": sort_maps(entry.metadata)} for entry in self.entries]
        return toml_bytes({"entries": entries}) if entries else b""


def _read_alternative(table: Table) -> PlanAlternative:
    provides = tuple(entry.text("name", required=True) for entry in table.tables("provides"))
    return PlanAlternative(provides, read_requires(table, "requires"))


def read_requires(table: Table, key: str) -> tuple[Require, ...]:
    """Reads the `[[requires]]` of a build plan, or the `[[bom]]` of another file, which has the same form."""
    requires = []
    for entry in table.tables(key):
        if entry.has("version"):
            # It is no longer part of the format. The reference refuses it in every API (B-158).
            entry.add_issue(
                f"{key}.version is no key of its own any more; put it into {key}.metadata", "version"
            )
        metadata = entry.mapping("metadata", finite=key == "bom") if entry.has("metadata") else None
        requires.append(Require(entry.text("name", required=True), metadata))
    return tuple(requires)


RESERVED = frozenset({"build", "launch", "store"})
"""Names of TOML files in a layers directory that do not describe a layer (B-065)."""


@dataclass(frozen=True, slots=True)
class LayerTypes:
    """The types of a layer. A layer without a type is ignored (B-045, B-067)."""

    build: bool = False
    launch: bool = False
    cache: bool = False

    def __bool__(self) -> bool:
        return self.build or self.launch or self.cache


@dataclass(frozen=True, slots=True)
class LayerToml:
    """The TOML file of a layer.

    `metadata` is None if the table is absent: the image's label distinguishes that from an empty table.
    """

    types: LayerTypes = field(default_factory=LayerTypes)
    metadata: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a buildpack's file. Raises InputError, also for types outside of [types] (B-044)."""
        top = Table.read(data, source, warn)
        for key in ("build", "launch", "cache"):
            if key in top.values:
                top.add_issue(f"{key} belongs in the [types] table", key)
        table = top.table("types")
        types = LayerTypes(table.flag("build"), table.flag("launch"), table.flag("cache"))
        # The metadata of a layer that is kept becomes a label.
        is_label = types.launch or types.cache
        metadata = top.mapping("metadata", finite=is_label) if top.has("metadata") else None
        top.finish()
        return cls(types, metadata)

    def dump_metadata(self) -> bytes:
        """Returns the file for the next build: the metadata without the types (B-079)."""
        return toml_bytes({"metadata": sort_maps(self.metadata)})


_PROCESS_TYPE = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Process:
    """A process type that an image can start.

    The launcher executes the command of a `direct` process itself, and any other with bash. From Buildpack
    API 0.9 on, every process is direct (B-137), `command` has the executable and the arguments that a user
    cannot replace (B-136), and `args` has those that a user can. Before, `command` is one text, and a user
    can only add to `args`. `args` is None if the key is absent: the image's label distinguishes that from an
    empty list.
    """

    type: str
    command: tuple[str, ...]
    args: tuple[str, ...] | None = None
    default: bool = False
    working_dir: str = ""
    exec_env: tuple[str, ...] = ()
    buildpack_id: str = ""
    direct: bool = True

    def with_one_word(self) -> Self:
        """Returns the process for a launcher before Platform API 0.10.

        Its command has only the first word. The others are arguments.
        """
        return replace(self, command=self.command[:1], args=(*self.command[1:], *(self.args or ())))


@dataclass(frozen=True, slots=True)
class LaunchToml:
    """One buildpack's launch.toml.

    `slices` has None for a slice without `paths`: metadata.toml distinguishes that from an empty list. `bom`
    is a bill of materials in the form before Buildpack API 0.7, which images still have (P-090).
    """

    labels: tuple[tuple[str, str], ...] = ()
    processes: tuple[Process, ...] = ()
    slices: tuple[tuple[str, ...] | None, ...] = ()
    bom: tuple[Require, ...] = ()

    @classmethod
    def parse(
        cls,
        data: bytes,
        source: str,
        *,
        api: BuildpackApi,
        owner: Ref,
        check_paths: Callable[[Sequence[str]], None] = lambda paths: None,
        warn: Warn | None = None,
    ) -> Self:
        """Reads the launch.toml that buildpack `owner` wrote; raises InputError with every issue in it.

        `check_paths` raises FormatError for paths of a slice that are no patterns.
        If only types of processes are wrong, it raises ExportError, for it is the exporter of the reference
        that refuses them, not its builder.
        """
        top = Table.read(data, source, warn)
        labels = tuple(
            (entry.text("key", required=True), entry.text("value")) for entry in top.tables("labels")
        )
        entries = top.tables("processes")
        processes = tuple(_process(entry, api=api, owner=owner.id) for entry in entries)
        slices = tuple(_slice(entry, check_paths) for entry in top.tables("slices"))
        bom = read_requires(top, "bom")
        if sum(process.default for process in processes) > 1:
            top.add_issue("more than one process has default = true", "processes")  # B-138
        types = [process.type for process in processes]
        for repeated in sorted({kind for kind in types if kind and types.count(kind) > 1}):
            top.add_issue(f"process type {repeated!r} is there twice", "processes")  # B-134
        has_only_wrong_types = not top.issues
        for entry, kind in zip(entries, types, strict=True):
            _check_type(entry, kind)
        if top.issues and has_only_wrong_types:
            raise ExportError(f"the processes of {owner} cannot be in an image", why="\n".join(top.issues))
        top.finish()
        return cls(labels, processes, slices, bom)


@dataclass(frozen=True, slots=True)
class BuildToml:
    """A buildpack's build.toml: the plan entries that it leaves to others (B-070), and a `bom` (P-090)."""

    unmet: tuple[str, ...] = ()
    bom: tuple[Require, ...] = ()

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a build.toml; raises InputError."""
        top = Table.read(data, source, warn)
        unmet = tuple(entry.text("name", required=True) for entry in top.tables("unmet"))
        bom = read_requires(top, "bom")
        top.finish()
        return cls(unmet, bom)


@dataclass(frozen=True, slots=True)
class StoreToml:
    """A buildpack's store.toml: metadata that lasts from build to build (B-043).

    `metadata` is None if the table is absent: the image's label distinguishes that from an empty table.
    """

    metadata: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a store.toml; raises InputError."""
        top = Table.read(data, source, warn)
        metadata = top.mapping("metadata", finite=True) if top.has("metadata") else None
        top.finish()
        return cls(metadata)

    def dump(self) -> bytes:
        """Returns the file for the next build."""
        return toml_bytes({"metadata": sort_maps(self.metadata)})


def _process(entry: Table, *, api: BuildpackApi, owner: str) -> Process:
    kind = entry.text("type")
    command, direct = _read_command(entry, kind, api)
    working_dir = entry.text("working-dir")
    if working_dir and not api.has(WORKING_DIR):
        entry.add_warning(f"working-dir of process {kind!r} is ignored: it came with API 0.8", "working-dir")
        working_dir = ""
    words = {"command": command, "args": entry.texts("args"), "working-dir": (working_dir,)}
    for key, values in words.items():
        if any("\0" in value for value in values):
            entry.add_issue(f"{key} of process {kind!r} has a NUL byte: it could not be started", key)
    return Process(
        type=kind,
        command=command,
        args=entry.texts("args") if entry.has("args") else None,
        default=entry.flag("default"),
        working_dir=working_dir,
        # The reference and its launcher take this key from buildpacks of every API.
        exec_env=entry.texts("exec-env"),
        buildpack_id=owner,
        direct=direct,
    )


def _slice(entry: Table, check_paths: Callable[[Sequence[str]], None]) -> tuple[str, ...] | None:
    paths = entry.texts("paths") if entry.has("paths") else None
    try:
        check_paths(paths or ())
    except FormatError as error:
        entry.add_issue(f"slices.paths: {error.what}: {error.why}", "paths")
    return paths


def _check_type(entry: Table, kind: str) -> None:
    if not kind:
        entry.add_issue("a process needs a type", "type")
    elif not _PROCESS_TYPE.fullmatch(kind):
        entry.add_issue(
            f"process type {kind!r} may have letters, digits, '.', '_' and '-' only", "type"
        )  # B-135
    elif kind in (".", ".."):
        # The clause allows them, but the image has a link with this name.
        entry.add_issue(f"process type {kind!r} cannot be the name of a file", "type")


def _read_command(entry: Table, kind: str, api: BuildpackApi) -> tuple[tuple[str, ...], bool]:
    """Returns the command, and whether the process is direct."""
    if not api.has(COMMAND_LIST):
        command, direct = entry.text("command"), entry.flag("direct")
        # bash runs an empty command as a script that does nothing. .profile may have done everything.
        if not entry.has("command") or (direct and not command):
            entry.add_issue(f"process {kind!r} has no command")
        return (command,), direct
    if entry.has("direct"):
        entry.add_issue(
            "direct is no key of a process from Buildpack API 0.9 on: every process is direct", "direct"
        )
    words = entry.texts("command")
    if not words or not words[0]:
        entry.add_issue(f"process {kind!r} has no command")
    return words, True
