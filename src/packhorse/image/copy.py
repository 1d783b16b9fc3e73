"""④ An image from any place to any other, layers side by side; only what the target lacks is read.

Called by platform. What a place keeps, and whether it compresses, is the place's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from packhorse.base.crew import ThreadPool, thread_pool
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
    return push_image(image, destination, meter=meter, name=name)


def push_image(
    image: Image, destination: Place, *, jobs: int = JOBS, meter: Meter = UNWATCHED, name: str = "copying"
) -> Receipt:
    """Writes an image to a place, `jobs` layers at a time; `meter` counts its bytes under `name`."""
    with count_bytes(image, meter, name) as image:
        return destination.write_image(write_layers(image, destination, jobs=jobs))


@contextmanager
def count_bytes(image: Image, meter: Meter, name: str) -> Iterator[Image]:
    """The image as one task of `meter`, to which the bytes of its layers count as they are read."""
    sizes = {_layer_key(layer): _layer_size(layer) for layer in image.layers}
    with meter.task(name, unit="B", total=sum(sizes.values()) if all(sizes.values()) else 0) as task:
        layers = {_layer_key(layer): _count_layer(layer, task) for layer in image.layers}
        yield replace(image, layers=tuple(layers[_layer_key(layer)] for layer in image.layers))


def _layer_size(layer: Layer) -> int:
    """How many bytes of a layer are read to copy it, 0 where nobody knows."""
    return layer.descriptor.size if layer.blob and layer.descriptor else layer.size or 0


def _count_layer(layer: Layer, task: Task) -> Layer:
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: task.count_bytes(tar()),
        blob=(lambda: task.count_bytes(blob())) if blob else None,
    )


def write_layers(image: Image, destination: Place, *, jobs: int = JOBS) -> Image:
    """The image with its layers at a place, under no name yet; one that it has twice is brought once."""
    if jobs == 1:
        return replace(image, layers=tuple(map(destination.write_layer, image.layers)))
    distinct = {_layer_key(layer): layer for layer in image.layers}
    with thread_pool(jobs, "layer", timeout=3) as workers:
        waiting = {
            key: workers.submit(destination.write_layer, make_cancellable(workers, layer))
            for key, layer in distinct.items()
        }
        found = {key: future.result() for key, future in waiting.items()}
    return replace(image, layers=tuple(found[_layer_key(layer)] for layer in image.layers))


def make_cancellable(workers: ThreadPool, layer: Layer) -> Layer:
    """The layer, whose reading ends when the workers are to stop."""
    tar, blob = layer.tar, layer.blob
    return replace(
        layer,
        tar=lambda: workers.cancellable(tar()),
        blob=(lambda: workers.cancellable(blob())) if blob else None,
    )


def _layer_key(layer: Layer) -> object:
    """What tells layers apart: the diff ID, or for a layer that nobody has read yet the layer itself."""
    return layer.diff_id or id(layer)
