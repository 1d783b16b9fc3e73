"""Reads the labels of a builder image into a report: the part of `packhorse inspect` that is for builders.

The labels are pack's contract. The JSON has the field names of `pack builder inspect`. `builder.image` reads
what a build needs of the same labels. No layer is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from packhorse.base.dataclass import dataclass
from packhorse.oci.types import Config, JsonNode

METADATA = "io.buildpacks.builder.metadata"
LAUNCHER = "io.packhorse.launcher"
"""Our label of a builder with a launcher and no lifecycle; its fields are those of METADATA's `lifecycle`."""
ORDER = "io.buildpacks.buildpack.order"
EXTENSIONS = "io.buildpacks.buildpack.order-extensions"
LAYERS = "io.buildpacks.buildpack.layers"
SYSTEM = "io.buildpacks.buildpack.system"

_EXTENSION_LAYERS = "io.buildpacks.extension.layers"
_STACK = "io.buildpacks.stack.id"
_MIXINS = "io.buildpacks.stack.mixins"

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ApiVersions:
    """The APIs that a lifecycle supports, and those among them that it warns of."""

    supported: tuple[str, ...] = ()
    deprecated: tuple[str, ...] = ()

    @classmethod
    def parse(cls, lifecycle: JsonNode, kind: str) -> Self:
        """Reads the APIs of a `kind`, buildpack or platform; old lifecycles name a single one."""
        apis = lifecycle.node("apis")
        versions = apis.node(kind) if apis else None
        if versions is not None:
            return cls(versions.texts("supported"), versions.texts("deprecated"))
        api = lifecycle.node("api")
        single = api.text(kind) if api else ""
        return cls((single,) if single else ())

    @property
    def all(self) -> frozenset[str]:
        """Every version, deprecated or not."""
        return frozenset((*self.supported, *self.deprecated))

    def fields(self) -> Fields:
        """For programs."""
        return {"deprecated": list(self.deprecated), "supported": list(self.supported)}

    def __str__(self) -> str:
        known = [f"{version} (deprecated)" for version in self.deprecated]
        return ", ".join((*known, *self.supported)) or "(unknown)"


@dataclass(frozen=True, slots=True)
class BuilderReport:
    """What a builder says of itself. Modules are buildpacks and extensions, as dicts for programs.

    `order` and `system` hold groups of references: dicts with id, and version and optional where they are
    given.
    """

    description: str
    creator: str
    creator_version: str
    stack: str
    mixins: tuple[str, ...]
    uid: str
    gid: str
    lifecycle_version: str
    buildpack_apis: ApiVersions
    platform_apis: ApiVersions
    run_images: tuple[tuple[str, tuple[str, ...]], ...]
    buildpacks: tuple[Fields, ...]
    extensions: tuple[Fields, ...]
    order: tuple[tuple[Fields, ...], ...]
    order_extensions: tuple[tuple[Fields, ...], ...]
    system: tuple[tuple[Fields, ...], tuple[Fields, ...]]

    @classmethod
    def read(cls, config: Config) -> Self | None:
        """Reads the labels; None for an image that is no builder. Raises FormatError."""
        labels = config.labels
        if METADATA not in labels:
            return None

        def parse(key: str) -> JsonNode:
            return JsonNode.parse((labels.get(key) or "{}").encode(), key)

        metadata = parse(METADATA)
        lifecycle = metadata.node("lifecycle") or parse(LAUNCHER)
        creator = metadata.node("createdBy") or JsonNode({}, METADATA)
        system = parse(SYSTEM)
        mixins = JsonNode.parse(b'{"mixins":%s}' % (labels.get(_MIXINS) or "null").encode(), _MIXINS)
        return cls(
            description=metadata.text("description"),
            creator=creator.text("name"),
            creator_version=creator.text("version"),
            stack=labels.get(_STACK, ""),
            mixins=mixins.texts("mixins"),
            uid=config.variable("CNB_USER_ID") or "",
            gid=config.variable("CNB_GROUP_ID") or "",
            lifecycle_version=lifecycle.text("version"),
            buildpack_apis=ApiVersions.parse(lifecycle, "buildpack"),
            platform_apis=ApiVersions.parse(lifecycle, "platform"),
            run_images=read_run_images(metadata),
            buildpacks=tuple(_modules(metadata.nodes("buildpacks"), parse(LAYERS))),
            extensions=tuple(_modules(metadata.nodes("extensions"), parse(_EXTENSION_LAYERS))),
            order=_read_order(labels.get(ORDER), ORDER),
            order_extensions=_read_order(labels.get(EXTENSIONS), EXTENSIONS),
            system=(_system_group(system, "pre"), _system_group(system, "post")),
        )

    def fields(self) -> Fields:
        """For programs."""
        return {
            "description": self.description,
            "created_by": {"name": self.creator, "version": self.creator_version},
            "stack": {"id": self.stack, "mixins": list(self.mixins)} if self.stack else None,
            "user": {"uid": self.uid, "gid": self.gid},
            "lifecycle": {
                "version": self.lifecycle_version,
                "buildpack_apis": self.buildpack_apis.fields(),
                "platform_apis": self.platform_apis.fields(),
            },
            "run_images": [{"name": name, "mirrors": list(mirrors)} for name, mirrors in self.run_images],
            "buildpacks": list(self.buildpacks),
            "detection_order": _groups(self.order),
            "extensions": list(self.extensions),
            "order_extensions": _groups(self.order_extensions),
            "system_buildpacks": {"pre": list(self.system[0]), "post": list(self.system[1])},
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"builder     {self.description or '(without a description)'}"
        if self.creator:
            yield f"made by     {self.creator} {self.creator_version}".rstrip()
        yield f"builds as   user {self.uid or '(unknown)'}:{self.gid or '(unknown)'}"
        if self.stack:
            yield f"stack       {self.stack}"
        yield f"lifecycle   {self.lifecycle_version or '(unknown)'}"
        yield f"APIs        Buildpack {self.buildpack_apis}"
        yield f"            Platform {self.platform_apis}"
        for name, mirrors in self.run_images:
            yield f"run image   {name}"
            yield from (f"  mirror    {mirror}" for mirror in mirrors)
        for kind, modules in (("buildpack", self.buildpacks), ("extension", self.extensions)):
            for module in modules:
                api = f"  Buildpack API {module['api']}" if module.get("api") else ""
                homepage = f"  {module['homepage']}" if module.get("homepage") else ""
                yield f"{kind}   {_name(module)}{api}{homepage}"
                for number, group in enumerate(module.get("order", ()), 1):
                    yield f"            {number}: {', '.join(map(_name, group['buildpacks']))}"
        for title, order in (("order", self.order), ("extensions", self.order_extensions)):
            for number, entries in enumerate(order, 1):
                yield f"{title:12}{number}: {', '.join(map(_name, entries))}"
        for title, entries in zip(("before all", "after all"), self.system, strict=True):
            if entries:
                yield f"{title:12}{', '.join(map(_name, entries))}"


def read_run_images(metadata: JsonNode) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Reads the name and mirrors of each run image; old builders have one, in `stack.runImage`."""
    images = metadata.nodes("images")
    if not images:
        stack = metadata.node("stack")
        single = stack.node("runImage") if stack else None
        images = (single,) if single else ()
    return tuple((each.text("image"), each.texts("mirrors")) for each in images if each.text("image"))


def _modules(listed: Sequence[JsonNode], layers: JsonNode) -> Iterator[Fields]:
    """The modules that the metadata lists, each with its API, targets and order from the label of layers."""
    for module in listed:
        identifier, version = module.text("id"), module.text("version")
        texts = {key: module.text(key) for key in ("name", "description", "homepage")}
        versions = layers.node(identifier) or JsonNode({}, LAYERS)
        details = versions.node(version) or JsonNode({}, LAYERS)
        order = [_refs(group) for group in details.nodes("order")]
        found: Fields = {"id": identifier, "version": version}
        found |= {key: text for key, text in texts.items() if text}
        if details.text("api"):
            found["api"] = details.text("api")
        if details.nodes("targets"):
            found["targets"] = [target.fields for target in details.nodes("targets")]
        yield found | ({"order": _groups(order)} if order else {})


def _read_order(label: str | None, key: str) -> tuple[tuple[Fields, ...], ...]:
    return tuple(_refs(group) for group in JsonNode.parse_list((label or "null").encode(), key))


def _refs(group: JsonNode, key: str = "group") -> tuple[Fields, ...]:
    return tuple(
        {"id": entry.text("id")}
        | ({"version": entry.text("version")} if entry.text("version") else {})
        | ({"optional": True} if entry.flag("optional") else {})
        for entry in group.nodes(key)
    )


def _system_group(system: JsonNode, key: str) -> tuple[Fields, ...]:
    group = system.node(key)
    return _refs(group, "buildpacks") if group else ()


def _groups(order: Sequence[Sequence[Fields]]) -> list[Fields]:
    return [{"buildpacks": list(group)} for group in order]


def _name(ref: Fields) -> str:
    version = f"@{ref['version']}" if ref.get("version") else ""
    return f"{ref['id']}{version}{' (optional)' if ref.get('optional') else ''}"
