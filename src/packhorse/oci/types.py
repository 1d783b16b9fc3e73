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

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image in a layout's index (image-spec, annotations.md)."""

_EMPTY: Mapping[str, str] = MappingProxyType({})
_VARIANTS = {"amd64": ("v1", "v2", "v3", "v4"), "arm": ("v5", "v6", "v7", "v8"), "arm64": ("v8", "v9")}
_USUAL_VARIANT = {"amd64": "v1", "arm": "v7", "arm64": "v8"}  # what no variant means (containerd's platforms)
_LAYER_LIMIT = 4096  # layers of a manifest
_INDEX_LIMIT = 10_000  # entries of an index

DEPTH = 4
"""How deep indexes may be nested. In practice nobody nests more than two."""


@dataclass(frozen=True, slots=True)
class JsonNode:
    """One JSON object, and its path for error messages: `manifest.layers[3]`. A null field counts as absent.

    Go ignores case when it matches fields. An object with two spellings of a field that is read is refused,
    because other readers could use the one that was not checked here. All methods raise FormatError.
    """

    fields: dict[str, Any]
    where: str

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Parses a JSON object of at most MANIFEST_LIMIT bytes; raises FormatError for anything else."""
        value = _load(raw, where)
        if not isinstance(value, dict):
            raise FormatError(f"{where} is not a JSON object", why=f"it is {_json_kind(value)}")
        return cls(value, where)

    @classmethod
    def parse_list(cls, raw: bytes, where: str) -> tuple[JsonNode, ...]:
        """Parses a JSON list of objects of at most MANIFEST_LIMIT bytes."""
        return cls({where: _load(raw, where)}, "file").nodes(where)

    def fail(self, key: str, why: str) -> NoReturn:
        """Raises FormatError about the field `key`."""
        raise FormatError(f"{self.where}.{key} cannot be used", why=why)

    def text(self, key: str) -> str:
        """Returns the string at `key`, "" if absent."""
        value = self._field(key)
        return "" if value is None else self._string(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns the strings of the list at `key`, none if absent."""
        return tuple(self._string(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def flag(self, key: str) -> bool:
        """Returns the boolean at `key`, False if absent."""
        value = self._field(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, f"it is {_json_kind(value)}, not a boolean")
        return bool(value)

    def number(self, key: str) -> int:
        """Returns the 64-bit integer at `key`, 0 if absent."""
        value = self._field(key)
        if value is None:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or not -1 << 63 <= value < 1 << 63:
            self.fail(key, f"it is {_json_kind(value)}, not a 64-bit integer")
        return value

    def size(self, key: str) -> int:
        """Returns the number of bytes at `key`, which must be present."""
        if self._field(key) is None or self.number(key) < 0:
            self.fail(key, "a number of bytes is needed")
        return self.number(key)

    def digest(self, key: str) -> Digest:
        """Returns the digest at `key`, which must be present."""
        return self._digest(self.text(key), key)

    def digests(self, key: str) -> tuple[Digest, ...]:
        """Returns the digests of the list at `key`, none if absent."""
        return tuple(self._digest(text, f"{key}[{index}]") for index, text in enumerate(self.texts(key)))

    def media_type(self, key: str) -> str:
        """Returns the media type at `key`, "" if absent (RFC 6838 grammar)."""
        text = self.text(key)
        if text and not _MEDIA_TYPE.fullmatch(text):
            self.fail(key, f"not a media type: {text[:100]!r}")
        return text

    def mapping(self, key: str) -> dict[str, str]:
        """Returns the object of strings at `key`, empty if absent. A null value counts as "", as in Go."""
        node = self.node(key)
        if node is None:
            return {}
        # `text` would refuse two keys that differ in case only, but in a map these are two entries.
        return {
            name: "" if value is None else node._string(value, name) for name, value in node.fields.items()
        }

    def node(self, key: str) -> JsonNode | None:
        """Returns the object at `key`, None if absent."""
        value = self._field(key)
        return None if value is None else self._node(value, key)

    def nodes(self, key: str) -> tuple[JsonNode, ...]:
        """Returns the objects of the list at `key`, none if absent."""
        return tuple(self._node(item, f"{key}[{index}]") for index, item in enumerate(self._list(key)))

    def _field(self, key: str) -> Any:
        if isinstance(self.fields, _CaseCollision):
            folded = key.casefold()
            if other := next((name for name in self.fields if name != key and name.casefold() == folded), ""):
                self.fail(key, f"the object also has {other[:100]!r}")
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
    """An object with keys that differ only in case."""


def _load(raw: bytes, where: str) -> Any:
    if len(raw) > MANIFEST_LIMIT:
        raise FormatError(f"{where} is too large", why=f"{len(raw)} bytes of at most {MANIFEST_LIMIT}")
    try:
        return loads(raw, pairs=_object)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "nested too deep"
        raise FormatError(f"{where} is not JSON", why=why) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object; raises ValueError for a repeated key, because readers differ in which one they use."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"one object has the key {twice[:100]!r} twice")
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


def _empty_mapping() -> Mapping[str, str]:
    return _EMPTY


class MediaType(StrEnum):
    """The media types of images. A descriptor may have another one, but then the image cannot be read."""

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
"""Every layer media type that can be read, with the OCI media type for the same bytes."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Describes a blob: media type, digest and size in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    target: Target | None = None
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, node: JsonNode) -> Self:
        """Parses one descriptor; raises FormatError."""
        platform = node.node("platform")
        return cls(
            media_type=node.media_type("mediaType"),
            digest=node.digest("digest"),
            size=node.size("size"),
            target=None if platform is None else _target(platform),
            annotations=MappingProxyType(node.mapping("annotations")),
        )

    def fields(self) -> dict[str, Any]:
        """Returns the JSON object for this descriptor, with its keys in go-containerregistry's order."""
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
    """An image manifest: the descriptors of the config and of the layers, lowest layer first."""

    raw: bytes
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Self:
        """Parses an image manifest; `media_type` is the one that its descriptor or the registry states.

        Raises FormatError, also for docker's schema 1.
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
        """Makes an OCI manifest. The same arguments always give the same bytes."""
        layers, kind = tuple(layers), MediaType.OCI_MANIFEST
        members = {"config": config.fields(), "layers": [layer.fields() for layer in layers]}
        raw = _document_bytes(kind, members, annotations)
        return cls(raw, kind, config, layers, MappingProxyType(dict(annotations)))

    @property
    def blobs(self) -> list[Digest]:
        """The digests of the config and of the layers, in this order."""
        return [self.config.digest, *(layer.digest for layer in self.layers)]

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes. A registry identifies the manifest by it."""
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this manifest for an index."""
        return Descriptor(self.media_type, self.digest, len(self.raw))


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (docker: manifest list): images for several targets, or the images of a layout."""

    raw: bytes
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Self:
        """Parses an index; `media_type` is the one that its descriptor or the registry states.

        Raises FormatError.
        """
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
        """Makes an OCI index. The same arguments always give the same bytes."""
        manifests, kind = tuple(manifests), MediaType.OCI_INDEX
        raw = _document_bytes(kind, {"manifests": [item.fields() for item in manifests]}, annotations)
        return cls(raw, kind, manifests, MappingProxyType(dict(annotations)))

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes."""
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of this index for another index."""
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets of the images, without attestations."""
        return tuple(item.target for item in self.manifests if item.target and item.target.os != "unknown")

    def select(self, target: Target) -> Descriptor:
        """Returns the entry for `target`; raises NotFoundError, which lists the targets of the index.

        Of several entries with the target's os and architecture it selects the best variant that the target
        can run. It selects an entry without a target if that is the only one. It never selects attestations,
        whose os is "unknown".
        """
        entries = [item for item in self.manifests if item.media_type in MANIFESTS | INDEXES]
        images = [item for item in entries if item.target is None or item.target.os != "unknown"]
        for variant in _runnable_variants(target):
            for item in images:
                if item.target and _machine(item.target) == (target.os, target.arch, variant):
                    return item
        if len(images) == 1 and images[0].target is None:
            return images[0]
        there = ", ".join(map(str, self.targets))
        why = f"the index has images for: {there}" if there else "the index names no targets"
        raise NotFoundError(f"no image for {target}", why=why)


Document = Manifest | Index


def parse_document(raw: bytes, media_type: str = "") -> Document:
    """Parses a manifest or an index: by `media_type`, or if that is "", by the media type that it states.

    Raises FormatError.
    """
    kind = media_type or JsonNode.parse(raw, "manifest").media_type("mediaType")
    return (Index if kind in INDEXES else Manifest).parse(raw, media_type)


def find_manifest(
    root: Document, target: Target, member: Callable[[Descriptor], Document], *, where: str
) -> tuple[Manifest, tuple[Index, ...]]:
    """Finds the manifest for `target` at or below `root`, and the indexes that lead to it, `root` first.

    `member` reads the document of an index entry. Raises NotFoundError and FormatError, which name `where`.
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
    """One entry of a config's history. `created` is the text in the config, "" if absent."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """An image config: the image's target, how it starts, and the diff IDs of its layers, lowest first.

    `env` has entries `NAME=value`, in their order. All other fields are only in `raw`.
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
    labels: Mapping[str, str] = field(default_factory=_empty_mapping, hash=False)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Parses an image config; raises FormatError. Every field may be absent, as in old images."""
        node = JsonNode.parse(raw, "config")
        run = node.node("config") or JsonNode({}, "config.config")
        rootfs = node.node("rootfs") or JsonNode({}, "config.rootfs")
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
            labels=MappingProxyType(run.mapping("Labels")),
            diff_ids=rootfs.digests("diff_ids"),
            history=tuple(_history(entry) for entry in node.nodes("history")),
        )

    @property
    def digest(self) -> Digest:
        """The digest of the raw bytes: the image ID."""
        return Digest.of(self.raw)

    @property
    def target(self) -> Target:
        """The image's target, without its distribution."""
        return Target(self.os, self.architecture, self.variant)

    def variable(self, name: str) -> str | None:
        """Returns the value of an environment variable, by its last entry; None if there is none."""
        for entry in reversed(self.env):
            key, _, value = entry.partition("=")
            if key == name:
                return value
        return None


def _document_bytes(
    media_type: MediaType, members: Mapping[str, Any], annotations: Mapping[str, str]
) -> bytes:
    """Encodes a manifest or index, with its keys in go-containerregistry's order."""
    fields: dict[str, Any] = {"schemaVersion": 2, "mediaType": str(media_type), **members}
    if annotations:
        fields["annotations"] = SortedMap(annotations)
    return json_bytes(fields)


def _document_type(node: JsonNode, expected: str, allowed: frozenset[MediaType], default: MediaType) -> str:
    """Returns a document's media type; one that it states must equal `expected` (image-spec, manifest.md)."""
    if node.fields.get("schemaVersion") != 2:
        node.fail("schemaVersion", f"it is {node.fields.get('schemaVersion')!r:.100}, only 2 can be read")
    stated = node.media_type("mediaType")
    if stated and expected and stated != expected:
        why = f"it states {stated}, but {expected} is expected"
        raise FormatError(f"{node.where} has another media type than expected", why=why)
    media_type = stated or expected or default
    if media_type not in allowed:
        raise FormatError(f"{node.where} does not belong to an image", why=f"its media type is {media_type}")
    return media_type


def _refuse_ambiguous(node: JsonNode, *keys: str) -> None:
    """Refuses fields of another kind of document: readers could take it for either kind (CVE-2021-41190)."""
    for key in (*keys, "fsLayers"):
        if node.fields.get(key) is not None:
            node.fail(key, f"it belongs to another kind of document than the {node.where}")


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


def runs_on(image: Target, wanted: Target) -> bool:
    """Whether an image for `image` runs on machines of `wanted`: their variant is the same or a later one."""
    system, arch, variant = _machine(image)
    return (system, arch) == (wanted.os, wanted.arch) and variant in _runnable_variants(wanted)


def _machine(target: Target) -> tuple[str, str, str]:
    return target.os, target.arch, target.variant or _USUAL_VARIANT.get(target.arch, "")


def _runnable_variants(target: Target) -> tuple[str, ...]:
    """Returns the variants whose code runs on `target`, best first."""
    variant = _machine(target)[2]
    line = _VARIANTS.get(target.arch, ())
    return tuple(reversed(line[: line.index(variant) + 1])) if variant in line else (variant,)
