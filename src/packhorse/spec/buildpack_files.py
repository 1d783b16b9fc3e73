"""② The two plans a buildpack exchanges: what bin/detect writes, and what bin/build is given.

(buildpack.md "Build Plan (TOML)" and "Buildpack Plan (TOML)".)

② `<layers>/<layer>.toml`: which types a layer has and what its buildpack noted.

(buildpack.md "Layer Content Metadata".)

② launch.toml, build.toml and store.toml: what a buildpack says beside its layers.

(buildpack.md "Data Format".)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.go_toml import sort_maps, toml_bytes
from packhorse.base.toml import Table, Warn
from packhorse.spec.api import COMMAND_LIST, WORKING_DIR, BuildpackApi


@dataclass(frozen=True, slots=True)
class Require:
    """A dependency somebody asks for, with what they want to say about it: None where the table is absent."""

    name: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanAlternative:
    """One alternative of a build plan: names provided and dependencies required."""

    provides: tuple[str, ...] = ()
    requires: tuple[Require, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanToml:
    """What one bin/detect wrote: alternatives, the top-level one first, then each `[[or]]` (B-026, B-027)."""

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
    """The entries one bin/build has to meet (B-062)."""

    entries: tuple[Require, ...]

    def dump(self) -> bytes:
        """The file at CNB_BP_PLAN_PATH."""
        entries = [{"name": entry.name, "metadata": sort_maps(entry.metadata)} for entry in self.entries]
        return toml_bytes({"entries": entries}) if entries else b""


def _read_alternative(table: Table) -> PlanAlternative:
    provides = tuple(entry.text("name", required=True) for entry in table.tables("provides"))
    return PlanAlternative(provides, read_requires(table, "requires"))


def read_requires(table: Table, key: str) -> tuple[Require, ...]:
    """The entries of a build plan's `[[requires]]`, or of the `[[bom]]` of other files, which is like it."""
    requires = []
    for entry in table.tables(key):
        if entry.has("version"):
            # Removed from the format; the reference refuses it in every API (B-158).
            entry.add_issue(
                f"{key}.version is no key of its own any more; put it into {key}.metadata", "version"
            )
        metadata = entry.mapping("metadata", finite=key == "bom") if entry.has("metadata") else None
        requires.append(Require(entry.text("name", required=True), metadata))
    return tuple(requires)


RESERVED = frozenset({"build", "launch", "store"})
"""Names of TOML files beside the layers' that are no layer's (B-065)."""


@dataclass(frozen=True, slots=True)
class LayerTypes:
    """The three layer types; a layer with none of them is ignored (B-045, B-067)."""

    build: bool = False
    launch: bool = False
    cache: bool = False

    def __bool__(self) -> bool:
        return self.build or self.launch or self.cache


@dataclass(frozen=True, slots=True)
class LayerToml:
    """One layer's TOML file; `metadata` is None where the table is absent, which a label tells from an empty
    one.
    """

    types: LayerTypes = field(default_factory=LayerTypes)
    metadata: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads what a buildpack wrote; raises InputError (B-044: the types stand in their table, not at the
        top).
        """
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
        """The file as a buildpack finds it next time: the metadata alone, never the types (B-079)."""
        return toml_bytes({"metadata": sort_maps(self.metadata)})


_PROCESS_TYPE = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Process:
    """A process type that an image can start.

    The launcher executes the command of a `direct` process, and has bash run any other. From Buildpack API
    0.9 on every process is direct (B-137), `command` holds the executable and arguments that a user cannot
    replace (B-136), and `args` those that a user can. Before, `command` is one text, and a user can only add
    to `args`. None, where the key is absent, reads otherwise than an empty list in the image's label.
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
        """The process as launchers of before Platform API 0.10 take it: only the first word is the command,
        the others are arguments.
        """
        return replace(self, command=self.command[:1], args=(*self.command[1:], *(self.args or ())))


@dataclass(frozen=True, slots=True)
class LaunchToml:
    """One buildpack's launch.toml.

    `slices` holds None for a slice without `paths`, which metadata.toml tells from one with none. `bom` is
    the bill of materials in the form of before Buildpack API 0.7, which images still carry along (P-090).
    """

    labels: tuple[tuple[str, str], ...] = ()
    processes: tuple[Process, ...] = ()
    slices: tuple[tuple[str, ...] | None, ...] = ()
    bom: tuple[Require, ...] = ()

    @classmethod
    def parse(
        cls, data: bytes, source: str, *, api: BuildpackApi, owner: str, warn: Warn | None = None
    ) -> Self:
        """Reads the launch.toml that buildpack `owner` wrote; raises InputError with every issue in it."""
        top = Table.read(data, source, warn)
        labels = tuple(
            (entry.text("key", required=True), entry.text("value")) for entry in top.tables("labels")
        )
        processes = tuple(_process(entry, api=api, owner=owner) for entry in top.tables("processes"))
        slices = tuple(entry.texts("paths") if entry.has("paths") else None for entry in top.tables("slices"))
        bom = read_requires(top, "bom")
        if sum(process.default for process in processes) > 1:
            top.add_issue("more than one process has default = true", "processes")  # B-138
        types = [process.type for process in processes]
        for repeated in sorted({kind for kind in types if types.count(kind) > 1}):
            top.add_issue(f"process type {repeated!r} is there twice", "processes")  # B-134
        top.finish()
        return cls(labels, processes, slices, bom)


@dataclass(frozen=True, slots=True)
class BuildToml:
    """One buildpack's build.toml: the plan entries it leaves to others (B-070); `bom` as in launch.toml."""

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
    """One buildpack's store.toml: metadata kept from build to build (B-043).

    `metadata` is None where the table is absent, which a label tells from an empty one.
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
        """The file as a buildpack finds it next time."""
        return toml_bytes({"metadata": sort_maps(self.metadata)})


def _process(entry: Table, *, api: BuildpackApi, owner: str) -> Process:
    kind = entry.text("type", required=True)
    if kind and not _PROCESS_TYPE.fullmatch(kind):
        entry.add_issue(
            f"process type {kind!r} may have letters, digits, '.', '_' and '-' only", "type"
        )  # B-135
    if kind in (".", ".."):
        # The clause allows them; a process type is the name of a link in the image.
        entry.add_issue(f"process type {kind!r} cannot be the name of a file", "type")
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
        # The reference takes this key from a buildpack of any API, and so does its launcher.
        exec_env=entry.texts("exec-env"),
        buildpack_id=owner,
        direct=direct,
    )


def _read_command(entry: Table, kind: str, api: BuildpackApi) -> tuple[tuple[str, ...], bool]:
    """The command, and whether the process is direct."""
    if not api.has(COMMAND_LIST):
        command, direct = entry.text("command"), entry.flag("direct")
        # bash takes an empty command for a script that does nothing: .profile may have done everything.
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
