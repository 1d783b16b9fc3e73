"""io.buildpacks.lifecycle.metadata as the reference's rebaser reads it and writes it back (P-192, P-193).

Unlike `lifecycle.labels`, which takes what can be understood, this refuses a label that Go could not read,
and keeps whatever else Go keeps: what says nothing of the base is written back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from packhorse.base import gojson
from packhorse.base.dataclass import dataclass, replace
from packhorse.errors import FormatError, InputError
from packhorse.image.reference import Reference
from packhorse.image.wire import JsonNode
from packhorse.lifecycle.labels import LIFECYCLE, RunImageRecord

_NONE = JsonNode({}, LIFECYCLE)


@dataclass(frozen=True, slots=True)
class BaseLabel:
    """What a label says of the base: `run`, and `stack` (image and mirrors, None if not there), which says
    the same for platforms of before Platform API 0.12. `rest` is the label as it was.
    """

    rest: JsonNode
    run: RunImageRecord
    stack: RunImageRecord | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the label; raises FormatError for one that Go could not read."""
        try:
            value = gojson.loads(text or "{}", parse_int=gojson.parse_number)
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
        """Where newer versions of the base come from, the name before its mirrors; none if nobody knows."""
        for record in (self.run, self.stack):
            if record and record.image:
                return (record.image, *record.mirrors)
        return ()

    @property
    def own_layers(self) -> frozenset[str]:
        """The diff IDs of the layers that the image does not have from its base, as far as they are said."""
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
        """Whether a run image is one of those that the label names; digests are not compared."""
        known = [
            each for record in (self.run, self.stack) if record for each in (record.image, *record.mirrors)
        ]
        return without_digest(name) in map(without_digest, known)

    def with_base(self, top: str, reference: str) -> Self:
        """The label of the same image on another base."""
        return replace(self, run=replace(self.run, top_layer=top, reference=reference))

    def with_name(self, image: str) -> Self:
        """The label with another name for the base, without mirrors."""
        run = replace(self.run, image=image, mirrors=())
        return replace(self, run=run, stack=RunImageRecord(image=image))

    def text(self) -> str:
        """The label, fields in Go's order; raises FormatError for what Go would not have read."""
        try:
            return gojson.dumps(self._value()).decode()
        except RecursionError as error:
            raise FormatError(f"the label {LIFECYCLE} cannot be used", why="it is nested too deep") from error

    def _value(self) -> dict[str, object]:
        node = self.rest
        value: dict[str, object] = {"app": gojson.sort_maps(node.fields.get("app"))}
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
    """A name in full, with its tag and without its digest; what is no name is left as it is."""
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
    value["layers"] = None if layers is None else gojson.SortedMap(_layers(layers))
    if store is not None:
        metadata = store.node("metadata")
        value["store"] = {"metadata": None if metadata is None else gojson.sort_maps(metadata.fields)}
    return value


def _layers(layers: JsonNode) -> Iterator[tuple[str, object]]:
    for name in layers.fields:
        layer = JsonNode({"layer": layers.fields[name]}, f"{layers.where}.{name}").node("layer") or _NONE
        yield (
            name,
            {
                "sha": layer.text("sha"),
                "data": gojson.sort_maps(layer.fields.get("data")),
                "build": layer.flag("build"),
                "launch": layer.flag("launch"),
                "cache": layer.flag("cache"),
            },
        )
