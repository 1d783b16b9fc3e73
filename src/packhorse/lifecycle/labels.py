"""Reads and writes the labels of an app image, with the same bytes as the reference (P-191 to P-195).

The JSON has Go's order of fields. `export` writes `LayersMetadata`, and the next build reads it: it ignores
parts of a label that cannot be read. `BaseLabel` is the same label for a rebase (P-192, P-193). It refuses a
label that Go could not read, and writes the parts that do not describe the base back unchanged.

Modules that read TOML are imported late, because commands that only show an image do not need them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.go_json import json_bytes, loads, parse_number
from packhorse.base.go_toml import SortedMap, sort_maps
from packhorse.errors import FormatError, InputError
from packhorse.oci.reference import Reference
from packhorse.oci.types import JsonNode
from packhorse.spec.api import LEGACY_BOM_FILE, PLATFORM_COMMAND_LIST, PlatformApi

if TYPE_CHECKING:
    from packhorse.spec.buildpack_files import Process, Require, StoreToml
    from packhorse.spec.buildpack_toml import Ref

LIFECYCLE = "io.buildpacks.lifecycle.metadata"
BUILD = "io.buildpacks.build.metadata"
PROJECT = "io.buildpacks.project.metadata"
EXEC_ENV = "io.buildpacks.exec-env"
REBASABLE = "io.buildpacks.rebasable"
STACK_ID = "io.buildpacks.stack.id"
MIXINS = "io.buildpacks.stack.mixins"
BASE_ID = "io.buildpacks.base.id"
DISTRO_NAME = "io.buildpacks.base.distro.name"
DISTRO_VERSION = "io.buildpacks.base.distro.version"


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A buildpack's layer in the label. `sha` is its diff ID as text, `data` the buildpack's metadata."""

    sha: str
    data: Mapping[str, Any] | None = None
    build: bool = False
    launch: bool = False
    cache: bool = False

    def encode(self) -> dict[str, object]:
        """The JSON object, fields in Go's order."""
        return {
            "sha": self.sha,
            "data": sort_maps(self.data),
            "build": self.build,
            "launch": self.launch,
            "cache": self.cache,
        }


@dataclass(frozen=True, slots=True)
class BuildpackRecord:
    """A buildpack's layers in the label, and its store.toml if it has one."""

    id: str
    version: str
    layers: Mapping[str, LayerRecord] = field(default_factory=dict)
    store: StoreToml | None = None

    def encode(self) -> dict[str, object]:
        """The JSON object, fields in Go's order."""
        layers = SortedMap({name: record.encode() for name, record in self.layers.items()})
        value: dict[str, object] = {"key": self.id, "version": self.version, "layers": layers}
        if self.store is not None:
            value["store"] = {"metadata": sort_maps(self.store.metadata)}
        return value


@dataclass(frozen=True, slots=True)
class RunImageRecord:
    """The base of an image: the diff ID of its top layer, an identifier, and the names of newer versions."""

    top_layer: str = ""
    reference: str = ""
    image: str = ""
    mirrors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayersMetadata:
    """io.buildpacks.lifecycle.metadata. The metadata of a cache has only its buildpacks and SBOM."""

    app: tuple[str, ...] = ()
    sbom: str = ""
    buildpacks: tuple[BuildpackRecord, ...] = ()
    config: str = ""
    launcher: str = ""
    process_types: str = ""
    run_image: RunImageRecord = RunImageRecord()

    @classmethod
    def parse(cls, data: str | bytes) -> Self:
        """Reads a label or the metadata of a cache. As in the reference, unreadable parts count as missing.

        Every number becomes a float, because Go reads it so (docs/decisions/0006).
        """
        try:
            value = loads(data, parse_int=parse_number)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(value, dict):
            return cls()
        app = value.get("app")
        return cls(
            app=tuple(_text(entry, "sha") for entry in app) if isinstance(app, list) else (),
            sbom=_text(value.get("sbom"), "sha"),
            buildpacks=_buildpacks(value.get("buildpacks")),
            config=_text(value.get("config"), "sha"),
            launcher=_text(value.get("launcher"), "sha"),
            process_types=_text(value.get("process-types"), "sha"),
            run_image=_run_image(value.get("runImage")),
        )

    def buildpack(self, identifier: str) -> BuildpackRecord | None:
        """Returns the record of a buildpack by its id. As in the reference, versions are not compared."""
        return next((record for record in self.buildpacks if record.id == identifier), None)

    def encode_label(self, *, has_run_image_names: bool = True) -> str:
        """Returns the label's text. Before Platform API 0.12 only `stack` has the names of the run image."""
        run = self.run_image
        names: dict[str, object] = {}
        if run.image:
            names["image"] = run.image
        if run.mirrors:
            names["mirrors"] = list(run.mirrors)
        value: dict[str, object] = {"app": [{"sha": sha} for sha in self.app] or None}
        if self.sbom:
            value["sbom"] = {"sha": self.sbom}
        value |= {
            "buildpacks": [record.encode() for record in self.buildpacks] or None,
            "config": {"sha": self.config},
            "launcher": {"sha": self.launcher},
            "process-types": {"sha": self.process_types},
            "runImage": {"topLayer": run.top_layer, "reference": run.reference}
            | (names if has_run_image_names else {}),
        }
        if names:
            value["stack"] = {"runImage": {"image": run.image} | names}
        return json_bytes(value).decode()

    def encode_cache(self) -> bytes:
        """Returns the metadata of a cache, as the reference writes it (P-110)."""
        value = {
            "sbom": {"sha": self.sbom},
            "buildpacks": [record.encode() for record in self.buildpacks] or None,
        }
        return json_bytes(value)


Bom = tuple[tuple["Ref", "Require"], ...]
"""Entries of a bill of materials before Buildpack API 0.7, each with its buildpack."""


def bom_entries(bom: Bom) -> list[dict[str, object]]:
    """Returns the entries for sbom.legacy.json, metadata.toml and the label, fields in Go's order."""
    return [
        {
            "name": entry.name,
            "metadata": sort_maps(entry.metadata),
            "buildpack": {"id": owner.id, "version": owner.version},
        }
        for owner, entry in bom
    ]


def build_label(
    group: Sequence[Mapping[str, str]],
    launcher: Mapping[str, str],
    processes: Sequence[Process],
    default: str,
    *,
    api: PlatformApi,
    bom: Bom = (),
) -> str:
    """Returns the text of io.buildpacks.build.metadata.

    `group` has id, version and homepage; `launcher` has version, repository and commit. Before Platform API
    0.9 the label has the old bill of materials `bom`.
    """
    buildpacks = [
        {key: value for key, value in member.items() if value or key != "homepage"} for member in group
    ]
    source = {"git": {"repository": launcher["repository"], "commit": launcher["commit"]}}
    value: dict[str, object] = {} if api.has(LEGACY_BOM_FILE) else {"bom": bom_entries(bom) or None}
    value |= {
        "buildpacks": buildpacks or None,
        "launcher": {"version": launcher["version"], "source": source},
        "processes": [_process(process, api) for process in processes],
    }
    if default:
        value["buildpack-default-process-type"] = default
    return json_bytes(value).decode()


def project_label(project: Mapping[str, Any]) -> str:
    """Returns the text of io.buildpacks.project.metadata: the source's type, version and metadata (P-195).

    It is `{}` without a source.
    """
    source = project.get("source")
    if source is None:
        return "{}"
    fields = {key: sort_maps(source[key]) for key in ("type", "version", "metadata") if source.get(key)}
    return json_bytes({"source": fields}).decode()


def _process(process: Process, api: PlatformApi) -> dict[str, object]:
    value: dict[str, object] = {
        "type": process.type,
        "command": list(process.command) if api.has(PLATFORM_COMMAND_LIST) else process.command[0],
        "args": None if process.args is None else list(process.args),
        "direct": process.direct,
        "buildpackID": process.buildpack_id,
    }
    if process.working_dir:
        value["working-dir"] = process.working_dir
    if process.exec_env:
        value["exec-env"] = list(process.exec_env)
    return value


def _text(value: object, key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _buildpacks(value: object) -> tuple[BuildpackRecord, ...]:
    if not isinstance(value, list):
        return ()
    records = []
    for entry in value:
        if not isinstance(entry, dict):
            continue
        layers = entry.get("layers")
        records.append(
            BuildpackRecord(
                _text(entry, "key"),
                _text(entry, "version"),
                _layers(layers) if isinstance(layers, dict) else {},
                _store(entry.get("store")),
            )
        )
    return tuple(records)


def _store(value: object) -> StoreToml | None:
    if not isinstance(value, dict):
        return None
    from packhorse.spec.buildpack_files import StoreToml

    metadata = value.get("metadata")
    return StoreToml(metadata if isinstance(metadata, dict) else None)


def _layers(value: Mapping[str, object]) -> dict[str, LayerRecord]:
    from packhorse.spec.buildpack_files import RESERVED

    # The image may come from an attacker, and the names of its layers become paths.
    names = [name for name in value if "/" not in name and name not in ("", ".", "..", *RESERVED)]
    return {name: _layer(value[name]) for name in names}


def _layer(value: object) -> LayerRecord:
    fields = value if isinstance(value, dict) else {}
    data = fields.get("data")
    flags = {key: fields.get(key) is True for key in ("build", "launch", "cache")}
    return LayerRecord(_text(fields, "sha"), data if isinstance(data, dict) else None, **flags)


def _run_image(value: object) -> RunImageRecord:
    mirrors = value.get("mirrors") if isinstance(value, dict) else None
    return RunImageRecord(
        _text(value, "topLayer"),
        _text(value, "reference"),
        _text(value, "image"),
        tuple(mirror for mirror in mirrors if isinstance(mirror, str)) if isinstance(mirrors, list) else (),
    )


_NONE = JsonNode({}, LIFECYCLE)


@dataclass(frozen=True, slots=True)
class BaseLabel:
    """The parts of a label that describe the base, for a rebase. `rest` is the whole label as it was.

    `stack` (image and mirrors, None if missing) is `run` for platforms before Platform API 0.12.
    """

    rest: JsonNode
    run: RunImageRecord
    stack: RunImageRecord | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the label. Raises FormatError for one that Go could not read."""
        try:
            value = loads(text or "{}", parse_int=parse_number)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"the label {LIFECYCLE} is not JSON", why=str(error) or "nested too deep"
            ) from error
        if not isinstance(value, dict):
            raise FormatError(f"the label {LIFECYCLE} cannot be used", why="it is not a JSON object")
        node = JsonNode(value, LIFECYCLE)
        run, stack = node.node("runImage") or _NONE, node.node("stack")
        return cls(node, _record(run), _record(stack.node("runImage") or _NONE) if stack else None)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of newer versions of the base, the name before its mirrors. May be empty."""
        for record in (self.run, self.stack):
            if record and record.image:
                return (record.image, *record.mirrors)
        return ()

    @property
    def own_layers(self) -> frozenset[str]:
        """The diff IDs of the layers that are not from the base, as far as the label has them."""
        found: set[str] = set()
        left = [value for key, value in self.rest.fields.items() if key not in ("runImage", "stack")]
        while left:
            value = left.pop()
            if isinstance(value, list):
                left += value
            elif isinstance(value, dict):
                found |= {value["sha"]} if isinstance(value.get("sha"), str) else set()
                left += [item for key, item in value.items() if key != "data"]
        return frozenset(found)

    def knows(self, name: str) -> bool:
        """Whether the label names this run image. Digests are not compared."""
        known = [
            each for record in (self.run, self.stack) if record for each in (record.image, *record.mirrors)
        ]
        return without_digest(name) in map(without_digest, known)

    def with_base(self, top: str, reference: str) -> Self:
        """Returns the label of the same image on another base."""
        return replace(self, run=replace(self.run, top_layer=top, reference=reference))

    def with_name(self, image: str) -> Self:
        """Returns the label with another name of the base, without mirrors."""
        run = replace(self.run, image=image, mirrors=())
        return replace(self, run=run, stack=RunImageRecord(image=image))

    def text(self) -> str:
        """Returns the label's text, fields in Go's order. Raises FormatError if Go could not read it."""
        try:
            return json_bytes(self._value()).decode()
        except RecursionError as error:
            raise FormatError(f"the label {LIFECYCLE} cannot be used", why="it is nested too deep") from error

    def _value(self) -> dict[str, object]:
        node = self.rest
        value: dict[str, object] = {"app": sort_maps(node.fields.get("app"))}
        sbom = node.node("sbom")
        if sbom is not None:
            value["sbom"] = {"sha": sbom.text("sha")}
        buildpacks = [_buildpack(entry) for entry in node.nodes("buildpacks")]
        value["buildpacks"] = buildpacks if node.fields.get("buildpacks") is not None else None
        for key in ("config", "launcher", "process-types"):
            value[key] = {"sha": (node.node(key) or _NONE).text("sha")}
        value["runImage"] = {"topLayer": self.run.top_layer, "reference": self.run.reference} | _names(
            self.run
        )
        if self.stack is not None:
            value["stack"] = {"runImage": _names(self.stack)}
        return value


def without_digest(name: str) -> str:
    """Returns a full name with its tag and without its digest. Other text is returned unchanged."""
    try:
        reference = Reference.parse(name)
    except InputError:
        return name.partition("@")[0] if "@sha256:" in name else name
    return str(Reference(reference.registry, reference.repository, reference.tag))


def _record(run: JsonNode) -> RunImageRecord:
    return RunImageRecord(
        run.text("topLayer"), run.text("reference"), run.text("image"), run.texts("mirrors")
    )


def _names(run: RunImageRecord) -> dict[str, object]:
    image: dict[str, object] = {"image": run.image} if run.image else {}
    return image | ({"mirrors": list(run.mirrors)} if run.mirrors else {})


def _buildpack(node: JsonNode) -> dict[str, object]:
    layers, store = node.node("layers"), node.node("store")
    value: dict[str, object] = {"key": node.text("key"), "version": node.text("version")}
    value["layers"] = None if layers is None else SortedMap(_read_base_layers(layers))
    if store is not None:
        metadata = store.node("metadata")
        value["store"] = {"metadata": None if metadata is None else sort_maps(metadata.fields)}
    return value


def _read_base_layers(layers: JsonNode) -> Iterator[tuple[str, object]]:
    for name in layers.fields:
        layer = JsonNode({"layer": layers.fields[name]}, f"{layers.where}.{name}").node("layer") or _NONE
        yield (
            name,
            {
                "sha": layer.text("sha"),
                "data": sort_maps(layer.fields.get("data")),
                "build": layer.flag("build"),
                "launch": layer.flag("launch"),
                "cache": layer.flag("cache"),
            },
        )
