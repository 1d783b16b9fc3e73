"""Who made each layer of an app image, by what its labels say (P-191, P-192).

Called by `inspect`, `diff` and `sbom` of this folder. An image of another origin has no labels of ours:
then a layer's history entry is all that is known.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from enum import StrEnum

from packhorse.base.dataclass import dataclass
from packhorse.lifecycle.labels import LayersMetadata
from packhorse.oci.place import Image, Layer


class LayerPart(StrEnum):
    """The parts of an app image, from the bottom up."""

    BASE = "base"
    BUILDPACK = "buildpack"
    SBOM = "sbom"
    APP = "app"
    LAUNCHER = "launcher"
    CONFIG = "config"
    PROCESSES = "process-types"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class OwnedLayer:
    """One layer and whose it is. `owner` is a buildpack's id, or "" where the part alone says it; `name` is
    the layer's own, and `version` the buildpack's.

    Text comes from the image's labels or history: hostile until it is cleaned.
    """

    layer: Layer
    part: LayerPart
    owner: str = ""
    name: str = ""
    version: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What the same layer of another build has too."""
        return self.part, self.owner, self.name

    @property
    def title(self) -> str:
        """What a person calls it."""
        if self.part is LayerPart.BUILDPACK:
            return f"{self.owner}:{self.name}"
        return f"{self.part} {self.name}".rstrip()


def owned_layers(image: Image, metadata: LayersMetadata) -> tuple[OwnedLayer, ...]:
    """Every layer of an image with its owner, lowest first.

    The base ends with the layer that the label calls its top; where the image has no such layer, nobody
    knows where it ends.
    """
    diff_ids = [str(layer.diff_id) for layer in image.layers]
    top = metadata.run_image.top_layer
    # Two layers may be equal, so the base's top is the first of its name.
    base = diff_ids.index(top) + 1 if top in diff_ids else 0
    claims: defaultdict[str, deque[tuple[LayerPart, str, str, str]]] = defaultdict(deque)
    for sha, part, owner, name, version in _claims(metadata):
        claims[sha].append((part, owner, name, version))
    told = _history(image)
    found = []
    for number, (layer, sha) in enumerate(zip(image.layers, diff_ids, strict=True)):
        if number < base:
            found.append(OwnedLayer(layer, LayerPart.BASE, name=str(number + 1)))
        elif claims[sha]:
            found.append(OwnedLayer(layer, *claims[sha].popleft()))
        else:
            found.append(OwnedLayer(layer, LayerPart.OTHER, name=told[number]))
    return tuple(found)


def _claims(metadata: LayersMetadata) -> Iterator[tuple[str, LayerPart, str, str, str]]:
    """What the label says of which layer, in the order in which the lifecycle adds them."""
    for record in metadata.buildpacks:
        for name in sorted(record.layers):
            yield record.layers[name].sha, LayerPart.BUILDPACK, record.id, name, record.version
    yield metadata.sbom, LayerPart.SBOM, "", "", ""
    for number, sha in enumerate(metadata.app, 1):
        yield sha, LayerPart.APP, "", f"slice {number}" if len(metadata.app) > 1 else "", ""
    yield metadata.launcher, LayerPart.LAUNCHER, "", "", ""
    yield metadata.config, LayerPart.CONFIG, "", "", ""
    yield metadata.process_types, LayerPart.PROCESSES, "", "", ""


def _history(image: Image) -> list[str]:
    """What made each layer: its history entry, where there is one a layer."""
    history = [entry for entry in image.config.history if not entry.empty_layer]
    if len(history) != len(image.layers):
        return [""] * len(image.layers)
    return [entry.created_by for entry in history]
