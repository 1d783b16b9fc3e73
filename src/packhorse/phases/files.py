"""Reads and writes the files that the phases hand to each other (platform.md "Data Format").

`AnalyzedToml` is analyzed.toml. The functions turn group.toml, plan.toml and metadata.toml into the values of
`lifecycle.stages` and back. run.toml, stack.toml and order.toml come from the builder. A file may come from
another lifecycle: each is read as the reference reads it, and an error names the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.go_toml import SortedMap, sort_maps, toml_bytes
from packhorse.base.target import Distro, Target
from packhorse.base.toml import Table
from packhorse.lifecycle.inputs import RunImageName
from packhorse.lifecycle.labels import (
    Bom,
    BuildpackRecord,
    LayerRecord,
    LayersMetadata,
    RunImageRecord,
)
from packhorse.lifecycle.stages import Built, Detected, Member
from packhorse.spec.api import PLATFORM_TARGETS, BuildpackApi, PlatformApi
from packhorse.spec.buildpack_files import RESERVED, Process, Require, StoreToml, read_requires
from packhorse.spec.buildpack_toml import Descriptor, Order, Ref, is_valid, read_order
from packhorse.spec.resolve import PlanEntry


@dataclass(frozen=True, slots=True)
class AnalyzedToml:
    """analyzed.toml (P-176 to P-178).

    `previous` and `run_reference` identify the previous image and the run image: a digest reference, an image
    ID, or a path of a layout. `run_name` is the run image's name. `target` is None if the file has none.
    """

    previous: str = ""
    run_reference: str = ""
    run_name: str = ""
    target: Target | None = None
    target_id: str = ""
    metadata: LayersMetadata = field(default_factory=LayersMetadata)
    build_image: str = ""
    extend: bool = False

    @classmethod
    def parse(cls, data: bytes, source: str) -> Self:
        """Reads the file. Raises InputError."""
        top = Table.read(data, source)
        run = top.table("run-image")
        target, distro = run.table("target"), run.table("target").table("distro")
        has_distro = run.table("target").has("distro")
        value = cls(
            previous=top.table("image").text("reference"),
            run_reference=run.text("reference"),
            run_name=run.text("image"),
            target=Target(
                target.text("os"),
                target.text("arch"),
                target.text("arch-variant"),
                Distro(distro.text("name"), distro.text("version")) if has_distro else None,
            )
            if run.has("target")
            else None,
            target_id=target.text("id"),
            metadata=_read_metadata(top.table("metadata")),
            build_image=top.table("build-image").text("reference"),
            extend=run.flag("extend"),
        )
        top.finish()
        return value

    def dump(self, api: PlatformApi) -> bytes:
        """Returns the file's content. Before Platform API 0.12 it lacks the run image's name and target."""
        value: dict[str, object] = {"image": {"reference": self.previous}}
        if self.build_image:
            value["build-image"] = {"reference": self.build_image}
        value["metadata"] = _metadata_table(self.metadata)
        run: dict[str, object] = {"reference": self.run_reference}
        if api.has(PLATFORM_TARGETS):
            run |= {"image": self.run_name or None, "extend": self.extend or None}
            if self.target is not None:
                run["target"] = _target_table(self.target, self.target_id)
        value["run-image"] = run
        return toml_bytes(value)


def _target_table(target: Target, identifier: str) -> dict[str, object]:
    distro = target.distro
    return {
        "id": identifier or None,
        "os": target.os,
        "arch": target.arch,
        "arch-variant": target.variant or None,
        "distro": {"name": distro.name, "version": distro.version} if distro else None,
    }


def _metadata_table(metadata: LayersMetadata) -> dict[str, object]:
    """The label as TOML, in the order of the reference's fields."""
    run = metadata.run_image
    names: dict[str, object] = {"image": run.image} if run.image else {}
    names |= {"mirrors": list(run.mirrors)} if run.mirrors else {}
    value: dict[str, object] = {
        "app": [{"sha": sha} for sha in metadata.app] or None,
        "sbom": {"sha": metadata.sbom} if metadata.sbom else None,
        "buildpacks": [_record_table(record) for record in metadata.buildpacks] or None,
        "config": {"sha": metadata.config},
        "launcher": {"sha": metadata.launcher},
        "process-types": {"sha": metadata.process_types},
        "run-image": {"top-layer": run.top_layer, "reference": run.reference} | names,
    }
    return value | ({"stack": {"run-image": names}} if names else {})


def _record_table(record: BuildpackRecord) -> dict[str, object]:
    layers = {
        name: {
            "sha": layer.sha,
            "metadata": sort_maps(layer.data),
            "build": layer.build,
            "launch": layer.launch,
            "cache": layer.cache,
        }
        for name, layer in record.layers.items()
    }
    value: dict[str, object] = {"key": record.id, "version": record.version, "layers": SortedMap(layers)}
    if record.store is not None:
        value["store"] = {"metadata": sort_maps(record.store.metadata)}
    return value


def _read_metadata(table: Table) -> LayersMetadata:
    run = table.table("run-image")
    return LayersMetadata(
        app=tuple(entry.text("sha") for entry in table.tables("app")),
        sbom=table.table("sbom").text("sha"),
        buildpacks=tuple(_read_record(entry) for entry in table.tables("buildpacks")),
        config=table.table("config").text("sha"),
        launcher=table.table("launcher").text("sha"),
        process_types=table.table("process-types").text("sha"),
        run_image=RunImageRecord(
            run.text("top-layer"), run.text("reference"), run.text("image"), run.texts("mirrors")
        ),
    )


def _read_record(table: Table) -> BuildpackRecord:
    layers = table.table("layers")
    records: dict[str, LayerRecord] = {}
    for name in layers.values:
        # The previous image may come from an attacker, and the names of its layers become paths.
        if "/" in name or name in ("", ".", "..", *RESERVED):
            continue
        layer = layers.table(name)
        data = layer.mapping("metadata") if layer.has("metadata") else None
        flags = {key: layer.flag(key) for key in ("build", "launch", "cache")}
        records[name] = LayerRecord(layer.text("sha"), data, **flags)
    store = None
    if table.has("store"):
        inner = table.table("store")
        store = StoreToml(inner.mapping("metadata") if inner.has("metadata") else None)
    return BuildpackRecord(table.text("key"), table.text("version"), records, store)


def dump_group(group: Sequence[Member]) -> bytes:
    """Returns the content of group.toml (P-180)."""
    entries = [
        {"id": member.ref.id, "version": member.ref.version, "api": member.api}
        | ({"homepage": member.homepage} if member.homepage else {})
        for member in group
    ]
    return toml_bytes({"group": entries})


def parse_group(data: bytes, source: str) -> tuple[Member, ...]:
    """Reads group.toml. The members have what the file says, not the whole buildpack.toml.

    Raises InputError, and BuildpackApiError for an API that is not supported.
    """
    top = Table.read(data, source)
    members = tuple(_read_member(entry) for entry in top.tables("group"))
    if top.tables("group-extensions"):
        top.add_issue("image extensions are not supported yet", "group-extensions")
    top.finish()
    return members


def _read_member(table: Table) -> Member:
    ref = Ref(table.text("id", required=True), table.text("version", required=True))
    if ref.id and ref.version and not is_valid(ref):
        table.add_issue(f"{ref} is not the name of a buildpack", "id")
    declared = table.text("api", required=True)
    where = table.locate("api", "api")
    # Without the key, the issue is that it is missing.
    api = BuildpackApi.parse(declared, owner=str(ref), where=where) if declared else BuildpackApi(0, 7)
    return Member(Descriptor(api=api, id=ref.id, version=ref.version, homepage=table.text("homepage")))


def dump_plan(plan: Sequence[PlanEntry]) -> bytes:
    """Returns the content of plan.toml (P-185)."""
    entries = [
        {
            "providers": [{"id": ref.id, "version": ref.version} for ref in entry.providers],
            "requires": [
                {"name": require.name, "metadata": sort_maps(require.metadata)} for require in entry.requires
            ],
        }
        for entry in plan
    ]
    return toml_bytes({"entries": entries}) if entries else b""


def parse_plan(data: bytes, source: str) -> tuple[PlanEntry, ...]:
    """Reads plan.toml. Raises InputError."""
    top = Table.read(data, source)
    entries = []
    for table in top.tables("entries"):
        providers = tuple(
            Ref(provider.text("id"), provider.text("version")) for provider in table.tables("providers")
        )
        requires = read_requires(table, "requires")
        entries.append(PlanEntry(requires[0].name if requires else "", providers, requires))
    top.finish()
    return tuple(entries)


def dump_detected(detected: Detected) -> tuple[bytes, bytes]:
    """Returns the contents of group.toml and plan.toml."""
    return dump_group(detected.group), dump_plan(detected.plan)


def parse_built(data: bytes, source: str, group: tuple[Member, ...]) -> Built:
    """Reads metadata.toml for the exporter; `group` comes from group.toml. Raises InputError.

    A command is a list of texts, or one text (before Platform API 0.10).
    """
    top = Table.read(data, source)
    built = Built(
        group=group,
        processes=tuple(_read_process(table) for table in top.tables("processes")),
        default_process=top.text("buildpack-default-process-type"),
        labels=tuple((table.text("key"), table.text("value")) for table in top.tables("labels")),
        slices=tuple(table.texts("paths") if table.has("paths") else None for table in top.tables("slices")),
        bom=_read_bom(top),
    )
    top.finish()
    return built


def _read_process(table: Table) -> Process:
    command = table.values.get("command")
    words = (command,) if isinstance(command, str) else table.texts("command")
    return Process(
        type=table.text("type", required=True),
        command=words,
        args=table.texts("args") if table.has("args") else None,
        working_dir=table.text("working-dir"),
        exec_env=table.texts("exec-env"),
        buildpack_id=table.text("buildpack-id"),
        direct=table.flag("direct"),
    )


def _read_bom(top: Table) -> Bom:
    found = []
    for table in top.tables("bom"):
        owner = table.table("buildpack")
        metadata = table.mapping("metadata") if table.has("metadata") else None
        found.append((Ref(owner.text("id"), owner.text("version")), Require(table.text("name"), metadata)))
    return tuple(found)


def parse_run_images(data: bytes, source: str, *, stack: bool) -> tuple[RunImageName, ...]:
    """Reads the run images of run.toml, or with `stack` the one of stack.toml. Raises InputError."""
    top = Table.read(data, source)
    tables = [top.table("run-image")] if stack else top.tables("images")
    found = tuple(RunImageName(table.text("image"), table.texts("mirrors")) for table in tables)
    top.finish()
    return tuple(name for name in found if name.image)


def parse_order(data: bytes, source: str) -> Order:
    """Reads order.toml. Raises InputError."""
    top = Table.read(data, source)
    order = tuple(read_order(top))
    top.finish()
    return order


def parse_project(data: bytes, source: str) -> Mapping[str, Any]:
    """Reads project-metadata.toml as it is. Raises InputError."""
    return dict(Table.read(data, source).values)
