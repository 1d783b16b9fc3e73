"""④ An image from any place to any other, layers side by side; only what the target lacks is read.

Called by platform. What a place keeps, and whether it compresses, is the place's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from packhorse.base.crew import Crew, crew
from packhorse.base.dataclass import replace
from packhorse.base.meter import UNWATCHED, Meter, Task
from packhorse.image.place import Place, Receipt
from packhorse.image.view import Image, Layer

JOBS = 4
"""How many layers are on their way at the same time."""


def copy(source: Place, destination: Place, *, meter: Meter = UNWATCHED, name: str = "copying") -> Receipt:
    """Copies the image under one name to another; raises what the two places raise.

    `meter` counts its bytes under `name`. Config and blobs arrive byte for byte, and so does the manifest
    where the destination stores the same blobs.
    """
    with meter.task(name):  # an engine may have to write an archive first
        image = source.read()
    return put(image, destination, meter=meter, name=name)


def put(
    image: Image, destination: Place, *, jobs: int = JOBS, meter: Meter = UNWATCHED, name: str = "copying"
) -> Receipt:
    """Writes an image to a place, `jobs` layers at a time; `meter` counts its bytes under `name`."""
    with counted(image, meter, name) as image:
        return destination.commit(brought(image, destination, jobs=jobs))


@contextmanager
def counted(image: Image, meter: Meter, name: str) -> Iterator[Image]:
    """The image as one task of `meter`, to which the bytes of its layers count as they are read."""
    sizes = {_key(layer): _size(layer) for layer in image.layers}
    with meter.task(name, unit="B", total=sum(sizes.values()) if all(sizes.values()) else 0) as task:
        layers = {_key(layer): _counted(layer, task) for layer in image.layers}
        yield replace(image, layers=tuple(layers[_key(layer)] for layer in image.layers))


def _size(layer: Layer) -> int:
    """How many bytes of a layer are read to copy it, 0 where nobody knows."""
    return layer.descriptor.size if layer.blob and layer.descriptor else layer.size or 0


def _counted(layer: Layer, task: Task) -> Layer:
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: task.counted(tar()),
        blob=(lambda: task.counted(blob())) if blob else None,
    )


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
