"""Finds the owner of each layer of an app image in its labels (P-191, P-192).

`inspect`, `diff` and `sbom` call this. An image that buildpacks did not make has no such labels. Its layers
get only their history entries as names.
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
    """One layer with its owner.

    `owner` is a buildpack's ID, or "" in all parts but BUILDPACK. `name` is the layer's name, and `version`
    the buildpack's. The text comes from the image's labels or history, so it must be cleaned before a
    terminal shows it.
    """

    layer: Layer
    part: LayerPart
    owner: str = ""
    name: str = ""
    version: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the layer across builds."""
        return self.part, self.owner, self.name

    @property
    def title(self) -> str:
        """The layer's name for users."""
        if self.part is LayerPart.BUILDPACK:
            return f"{self.owner}:{self.name}"
        return f"{self.part} {self.name}".rstrip()


def owned_layers(image: Image, metadata: LayersMetadata) -> tuple[OwnedLayer, ...]:
    """Returns every layer of an image with its owner, lowest first.

    The base ends with the top layer that the label names. If the image lacks this layer, no layer counts as
    the base's.
    """
    diff_ids = [str(layer.diff_id) for layer in image.layers]
    top = metadata.run_image.top_layer
    # Layers above the base may be equal to its top, so the first one counts.
    base = diff_ids.index(top) + 1 if top in diff_ids else 0
    claims: defaultdict[str, deque[tuple[LayerPart, str, str, str]]] = defaultdict(deque)
    for sha, part, owner, name, version in _claims(metadata):
        claims[sha].append((part, owner, name, version))
    history = _history(image)
    found = []
    for number, (layer, sha) in enumerate(zip(image.layers, diff_ids, strict=True)):
        if number < base:
            found.append(OwnedLayer(layer, LayerPart.BASE, name=str(number + 1)))
        elif claims[sha]:
            found.append(OwnedLayer(layer, *claims[sha].popleft()))
        else:
            found.append(OwnedLayer(layer, LayerPart.OTHER, name=history[number]))
    return tuple(found)


def _claims(metadata: LayersMetadata) -> Iterator[tuple[str, LayerPart, str, str, str]]:
    """Yields the label's entry for each layer, in the order in which the lifecycle adds the layers."""
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
    """Returns what made each layer, if there is one history entry for each; else empty strings."""
    history = [entry for entry in image.config.history if not entry.empty_layer]
    if len(history) != len(image.layers):
        return [""] * len(image.layers)
    return [entry.created_by for entry in history]
