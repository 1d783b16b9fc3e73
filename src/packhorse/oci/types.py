"""Parses and makes the JSON documents of images: manifest, index and config, of OCI and docker's schema 2.

`JsonNode` reads JSON field by field, and its errors name the field. A parsed document keeps its bytes in
`raw`. Fields that this module does not know are only there, so copying never encodes a document again. Every
place calls this. `oci.mutate` changes configs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NoReturn, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes, loads
from packhorse.base.go_toml import SortedMap
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError

MANIFEST_LIMIT = 4 << 20
"""The most bytes a manifest, index or config may have (distribution-spec, "Pushing Manifests": 4 MiB)."""

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True)
class JsonNode:
    """One JSON object and where it stands: `manifest.layers[3]`. A null field counts as absent, as in Go.

    Go also takes a field for another that differs in case; where that leaves two for one it is refused, since
    what is checked here must be what others run.
    """

    fields: dict[str, Any]
    where: str

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Reads a JSON object of at most MANIFEST_LIMIT bytes; raises FormatError for anything else."""
        value = _load(raw, where)
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not a JSON object", why=f"it is {_json_kind(value)}")
        return cls(value, where)

    @classmethod
    def parse_list(cls, raw: bytes, where: str) -> tuple[JsonNode, ...]:
        """Reads a JSON list of objects, otherwise as `parse` does."""
        return cls({where: _load(raw, where)}, "file").nodes(where)

    def fail(self, key: str, why: str) -> NoReturn:
        """Raises FormatError about the field `key`."""
        raise FormatError(f"{self.where}.{key} cannot be used", why=why)

    def text(self, key: str) -> str:
        """The string at `key`, "" when absent."""
        value = self._field(key)
        return "" if value is None else self._string(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings of the list at `key`."""
        return tuple(self._string(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def flag(self, key: str) -> bool:
        """The boolean at `key`, False when absent."""
        value = self._field(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, f"it is {_json_kind(value)}, not a boolean")
        return bool(value)

    def number(self, key: str) -> int:
        """The 64-bit integer at `key`, 0 when absent."""
        value = self._field(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not -1 << 63 <= value < 1 << 63:
            self.fail(key, f"it is {_json_kind(value)}, not a 64-bit integer")
        return value

    def size(self, key: str) -> int:
        """The byte count at `key`, which must be there."""
        if self._field(key) is None or self.number(key) < 0:
            self.fail(key, "a number of bytes is needed")
        return self.number(key)

    def digest(self, key: str) -> Digest:
        """The digest at `key`, which must be there."""
        return self._digest(self.text(key), key)

    def digests(self, key: str) -> tuple[Digest, ...]:
        """The digests of the list at `key`."""
        return tuple(self._digest(text, f"{key}[{index}]") for index, text in enumerate(self.texts(key)))

    def media_type(self, key: str) -> str:
        """The media type at `key`, "" when absent (RFC 6838 grammar)."""
        text = self.text(key)
        if text and not _MEDIA_TYPE.fullmatch(text):
            self.fail(key, f"not a media type: {text[:100]!r}")
        return text

    def mapping(self, key: str) -> dict[str, str]:
        """The object of strings at `key`; a null value counts as "", as in Go."""
        node = self.node(key)
        if node is None:
            return {}
        # Not by `text`: the keys of a map are no fields.
        return {
            name: "" if value is None else node._string(value, name) for name, value in node.fields.items()
        }

    def node(self, key: str) -> JsonNode | None:
        """The object at `key`, None when absent."""
        value = self._field(key)
        return None if value is None else self._node(value, key)

    def nodes(self, key: str) -> tuple[JsonNode, ...]:
        """The objects of the list at `key`."""
        return tuple(self._node(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def _field(self, key: str) -> Any:
        if isinstance(self.fields, _CaseCollision):
            folded = key.casefold()
            if other := next((name for name in self.fields if name != key and name.casefold() == folded), ""):
                self.fail(key, f"it is there as {other[:100]!r} as well")
        return self.fields.get(key)

    def _list(self, key: str) -> list[Any]:
        value = self._field(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fail(key, f"it is {_json_kind(value)}, not a list")
        return value

    def _node(self, value: Any, key: str) -> JsonNode:
        if not isinstance(value, dict):
            self.fail(key, f"it is {_json_kind(value)}, not an object")
        return JsonNode(value, f"{self.where}.{key}")

    def _string(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            self.fail(key, f"it is {_json_kind(value)}, not a string")
        return value

    def _digest(self, text: str, key: str) -> Digest:
        try:
            return Digest.parse(text)
        except FormatError as error:
            raise FormatError(
                f"{self.where}.{key} cannot be used", why=f"{error.what}; {error.why}"
            ) from error


class _CaseCollision(dict[str, Any]):
    """An object that has names which differ in nothing but case."""


def _load(raw: bytes, where: str) -> Any:
    if len(raw) > MANIFEST_LIMIT:
        raise FormatError(f"{where} is too large", why=f"{len(raw)} bytes of at most {MANIFEST_LIMIT}")
    try:
        return loads(raw, pairs=_object)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "nested too deep"
        raise FormatError(f"{where} is not JSON", why=why) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which every name may stand once: readers differ in which of two they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice[:100]!r} is there twice in one object")
    return fields if len({name.casefold() for name in fields}) == len(fields) else _CaseCollision(fields)


def _json_kind(value: Any) -> str:
    kinds = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "missing")


REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image in a layout's index (image-spec, annotations.md)."""

_EMPTY: Mapping[str, str] = MappingProxyType({})
_VARIANTS = {"amd64": ("v1", "v2", "v3", "v4"), "arm": ("v5", "v6", "v7", "v8"), "arm64": ("v8", "v9")}
_USUAL_VARIANT = {"amd64": "v1", "arm": "v7", "arm64": "v8"}  # what no variant means (containerd's platforms)
_LAYER_LIMIT = 4096
_INDEX_LIMIT = 10_000

DEPTH = 4
"""The most indexes within each other; nobody makes more than two."""


def _empty_mapping() -> Mapping[str, str]:
    return _EMPTY


class MediaType(StrEnum):
    """The media types of images. A descriptor may have any other; an image with one cannot be read."""

    OCI_INDEX = "application/vnd.oci.image.index.v1+json"
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
    OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
    OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
    DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"


INDEXES = frozenset({MediaType.OCI_INDEX, MediaType.DOCKER_INDEX})
MANIFESTS = frozenset({MediaType.OCI_MANIFEST, MediaType.DOCKER_MANIFEST})
CONFIGS = frozenset({MediaType.OCI_CONFIG, MediaType.DOCKER_CONFIG})
OCI_LAYERS: Mapping[str, MediaType] = MappingProxyType(
    {
        MediaType.OCI_LAYER: MediaType.OCI_LAYER,
        MediaType.OCI_LAYER_GZIP: MediaType.OCI_LAYER_GZIP,
        MediaType.OCI_LAYER_ZSTD: MediaType.OCI_LAYER_ZSTD,
        MediaType.DOCKER_LAYER: MediaType.OCI_LAYER,
        MediaType.DOCKER_LAYER_GZIP: MediaType.OCI_LAYER_GZIP,
        MediaType.DOCKER_LAYER_ZSTD: MediaType.OCI_LAYER_ZSTD,
    }
)
"""Every layer media type that can be read, and what an OCI manifest calls the same bytes."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob: its media type, digest and size in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    target: Target | None = None
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, node: JsonNode) -> Self:
        """Reads one descriptor; raises FormatError."""
        platform = node.node("platform")
        return cls(
            media_type=node.media_type("mediaType"),
            digest=node.digest("digest"),
            size=node.size("size"),
            target=None if platform is None else _target(platform),
            annotations=MappingProxyType(node.mapping("annotations")),
        )

    def fields(self) -> dict[str, Any]:
        """The JSON object for this descriptor, fields in the order go-containerregistry gives them."""
        fields: dict[str, Any] = {
            "mediaType": str(self.media_type),
            "size": self.size,
            "digest": str(self.digest),
        }
        if self.annotations:
            fields["annotations"] = SortedMap(self.annotations)
        if self.target:
            fields["platform"] = {"architecture": self.target.arch, "os": self.target.os}
            if self.target.variant:
                fields["platform"]["variant"] = self.target.variant
        return fields


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest: the config's descriptor and the layers', lowest first."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Self:
        """Reads an image manifest; `media_type` is what its descriptor or the registry said.

        Raises FormatError, for docker's schema 1 and for artifacts that are no images too.
        """
        node = JsonNode.parse(raw, "manifest")
        media_type = _document_type(node, media_type, MANIFESTS, MediaType.OCI_MANIFEST)
        _refuse_ambiguous(node, "manifests")
        config = node.node("config")
        if config is None:
            node.fail("config", "it is missing")
        layers = node.nodes("layers")
        if len(layers) > _LAYER_LIMIT:
            node.fail("layers", f"there are {len(layers)}, at most {_LAYER_LIMIT} are read")
        return cls(
            raw=raw,
            media_type=media_type,
            config=Descriptor.parse(config),
            layers=tuple(Descriptor.parse(layer) for layer in layers),
            annotations=MappingProxyType(node.mapping("annotations")),
        )

    @classmethod
    def of(
        cls, config: Descriptor, layers: Iterable[Descriptor], annotations: Mapping[str, str] = _EMPTY
    ) -> Self:
        """A new OCI manifest; the same arguments always give the same bytes."""
        layers = tuple(layers)
        fields: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": str(MediaType.OCI_MANIFEST),
            "config": config.fields(),
            "layers": [layer.fields() for layer in layers],
        }
        if annotations:
            fields["annotations"] = SortedMap(annotations)
        return cls(
            json_bytes(fields), MediaType.OCI_MANIFEST, config, layers, MappingProxyType(dict(annotations))
        )

    @property
    def blobs(self) -> list[Digest]:
        """What the manifest needs: the config, then the layers in their order."""
        return [self.config.digest, *(layer.digest for layer in self.layers)]

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes, by which a registry knows this manifest."""
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """What an index says of this manifest."""
        return Descriptor(self.media_type, self.digest, len(self.raw))


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (docker: manifest list): images for several targets, or the names in a layout."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Self:
        """Reads an index; `media_type` is what its descriptor or the registry said. Raises FormatError."""
        node = JsonNode.parse(raw, "index")
        media_type = _document_type(node, media_type, INDEXES, MediaType.OCI_INDEX)
        _refuse_ambiguous(node, "config", "layers")
        manifests = node.nodes("manifests")
        if len(manifests) > _INDEX_LIMIT:
            node.fail("manifests", f"there are {len(manifests)}, at most {_INDEX_LIMIT} are read")
        return cls(
            raw=raw,
            media_type=media_type,
            manifests=tuple(Descriptor.parse(item) for item in manifests),
            annotations=MappingProxyType(node.mapping("annotations")),
        )

    @classmethod
    def of(cls, manifests: Iterable[Descriptor], annotations: Mapping[str, str] = _EMPTY) -> Self:
        """A new OCI index; the same arguments always give the same bytes."""
        manifests = tuple(manifests)
        fields: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": str(MediaType.OCI_INDEX),
            "manifests": [item.fields() for item in manifests],
        }
        if annotations:
            fields["annotations"] = SortedMap(annotations)
        return cls(json_bytes(fields), MediaType.OCI_INDEX, manifests, MappingProxyType(dict(annotations)))

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """What another index says of this one."""
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def targets(self) -> tuple[Target, ...]:
        """What there are images for, attestations left out."""
        return tuple(item.target for item in self.manifests if item.target and item.target.os != "unknown")

    def select(self, target: Target) -> Descriptor:
        """The entry for `target`; raises NotFoundError that lists what there is.

        Of several with the same os and architecture the best variant that the target can run is taken. An
        entry that says no target is taken if it is the only one; attestations, whose os is "unknown", never.
        """
        entries = [item for item in self.manifests if item.media_type in MANIFESTS | INDEXES]
        images = [item for item in entries if item.target is None or item.target.os != "unknown"]
        for variant in _runnable_variants(target):
            for item in images:
                if item.target and _machine(item.target) == (target.os, target.arch, variant):
                    return item
        if len(images) == 1 and images[0].target is None:
            return images[0]
        there = ", ".join(map(str, self.targets)) or "none that says its target"
        raise NotFoundError(f"no image for {target}", why=f"the index has images for: {there}")


Document = Manifest | Index


def parse_document(raw: bytes, media_type: str = "") -> Document:
    """Parses a manifest or an index: by `media_type`, or without one by the media type that it states.

    Raises FormatError.
    """
    kind = media_type or JsonNode.parse(raw, "manifest").media_type("mediaType")
    return (Index if kind in INDEXES else Manifest).parse(raw, media_type)


def find_manifest(
    root: Document, target: Target, member: Callable[[Descriptor], Document], *, where: str
) -> tuple[Manifest, tuple[Index, ...]]:
    """Finds the manifest for `target` at or below `root`, and the indexes that lead to it, `root` first.

    `member` reads what an entry of an index describes. Raises NotFoundError and FormatError, which say
    `where`.
    """
    indexes: list[Index] = []
    while isinstance(root, Index):
        if len(indexes) == DEPTH:
            raise FormatError(f"{where} cannot be read", why=f"its indexes are nested more than {DEPTH} deep")
        indexes.append(root)
        try:
            entry = root.select(target)
        except NotFoundError as error:
            raise NotFoundError(f"{where} has no image for {target}", why=error.why) from error
        root = member(entry)
    return root, tuple(indexes)


@dataclass(frozen=True, slots=True)
class History:
    """One entry of a config's history; `created` as it is written, "" when absent."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """An image config: what the image is for, how it starts, and the diff IDs of its layers, lowest first.

    `env` keeps its order, as `NAME=value`. Fields not named here are in `raw` alone.
    """

    raw: bytes
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    created: str = ""
    env: tuple[str, ...] = ()
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Reads an image config; raises FormatError. Every field may be absent, as in old images."""
        node = JsonNode.parse(raw, "config")
        run = node.node("config") or JsonNode({}, "config.config")
        rootfs = node.node("rootfs") or JsonNode({}, "config.rootfs")
        ports, volumes = run.node("ExposedPorts"), run.node("Volumes")
        return cls(
            raw=raw,
            os=node.text("os"),
            architecture=node.text("architecture"),
            variant=node.text("variant"),
            os_version=node.text("os.version"),
            created=node.text("created"),
            env=run.texts("Env"),
            user=run.text("User"),
            entrypoint=run.texts("Entrypoint"),
            cmd=run.texts("Cmd"),
            working_dir=run.text("WorkingDir"),
            stop_signal=run.text("StopSignal"),
            labels=MappingProxyType(run.mapping("Labels")),
            exposed_ports=tuple(sorted(ports.fields)) if ports else (),
            volumes=tuple(sorted(volumes.fields)) if volumes else (),
            diff_ids=rootfs.digests("diff_ids"),
            history=tuple(_history(entry) for entry in node.nodes("history")),
        )

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes: the image ID."""
        return Digest.of(self.raw)

    @property
    def target(self) -> Target:
        """What the image is made for, without its distribution."""
        return Target(self.os, self.architecture, self.variant)

    def variable(self, name: str) -> str | None:
        """The value of an environment variable; the last entry counts, None when there is none."""
        for entry in reversed(self.env):
            key, _, value = entry.partition("=")
            if key == name:
                return value
        return None


def _document_type(node: JsonNode, told: str, allowed: frozenset[MediaType], default: MediaType) -> str:
    """The media type a document states, which must agree with the one told (image-spec, manifest.md)."""
    if node.fields.get("schemaVersion") != 2:
        node.fail("schemaVersion", f"it is {node.fields.get('schemaVersion')!r:.100}, only 2 can be read")
    stated = node.media_type("mediaType")
    if stated and told and stated != told:
        raise FormatError(f"{node.where} does not have the stated value", why=f"it is {stated}, not {told}")
    media_type = stated or told or default
    if media_type not in allowed:
        raise FormatError(f"{node.where} is not one of an image", why=f"its media type is {media_type}")
    return media_type


def _refuse_ambiguous(node: JsonNode, *keys: str) -> None:
    """A manifest that is an index as well is another image to every reader (CVE-2021-41190)."""
    for key in (*keys, "fsLayers"):
        if node.fields.get(key) is not None:
            node.fail(key, f"it does not belong into {node.where}, which is not to be two things at once")


def _target(platform: JsonNode) -> Target:
    return Target(platform.text("os"), platform.text("architecture"), platform.text("variant"))


def _history(entry: JsonNode) -> History:
    return History(
        created=entry.text("created"),
        created_by=entry.text("created_by"),
        author=entry.text("author"),
        comment=entry.text("comment"),
        empty_layer=entry.flag("empty_layer"),
    )


def _machine(target: Target) -> tuple[str, str, str]:
    return target.os, target.arch, target.variant or _USUAL_VARIANT.get(target.arch, "")


def _runnable_variants(target: Target) -> tuple[str, ...]:
    """The variants whose code runs on `target`, best first."""
    variant = _machine(target)[2]
    line = _VARIANTS.get(target.arch, ())
    return tuple(reversed(line[: line.index(variant) + 1])) if variant in line else (variant,)
