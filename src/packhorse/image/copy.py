"""④ An image from any place to any other, layers side by side; only what the target lacks is read.

Called by platform. What a place keeps, and whether it compresses, is the place's own.
"""

from __future__ import annotations

from packhorse.base.crew import Crew, crew
from packhorse.base.dataclass import replace
from packhorse.image.place import Place, Receipt
from packhorse.image.view import Image, Layer

JOBS = 4
"""How many layers are on their way at the same time."""


def copy(source: Place, destination: Place) -> Receipt:
    """Copies the image under one name to another; raises what the two places raise.

    Config and blobs arrive byte for byte, and so does the manifest where the destination stores the same
    blobs.
    """
    return put(source.read(), destination)


def put(image: Image, destination: Place, *, jobs: int = JOBS) -> Receipt:
    """Writes an image to a place, `jobs` layers at a time."""
    return destination.commit(brought(image, destination, jobs=jobs))


def brought(image: Image, destination: Place, *, jobs: int = JOBS) -> Image:
    """The image with its layers at a place, under no name yet; one that it has twice is brought once."""
    if jobs == 1:
        return replace(image, layers=tuple(map(destination.begin, image.layers)))
    distinct = {_key(layer): layer for layer in image.layers}
    with crew(jobs, "layer", patience=3) as workers:
        waiting = {
            key: workers.submit(destination.begin, heeding(workers, layer)) for key, layer in distinct.items()
        }
        found = {key: future.result() for key, future in waiting.items()}
    return replace(image, layers=tuple(found[_key(layer)] for layer in image.layers))


def heeding(workers: Crew, layer: Layer) -> Layer:
    """The layer, whose reading ends when the workers are to stop."""
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: workers.heeded(tar()),
        blob=(lambda: workers.heeded(blob())) if blob else None,
    )


def _key(layer: Layer) -> object:
    """What tells layers apart: the diff ID, or for a layer that nobody has read yet the layer itself."""
    return layer.diff_id or id(layer)
