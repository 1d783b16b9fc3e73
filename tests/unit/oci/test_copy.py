"""Layers are copied side by side, each once, and nothing is committed when one of them fails."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.small_image import Tape, fresh_image, stored_image, tar_of
from packhorse.base.progress import Meter, Task
from packhorse.errors import FormatError
from packhorse.oci.layout import Layout
from packhorse.oci.place import JOBS, Image, Layer, Receipt, copy, push_image

TARS = [tar_of({str(number): bytes([number]) * 1000}) for number in range(JOBS)]


class Meeting:
    """A place where no layer arrives before all of them are on their way."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(JOBS, timeout=60)

    def read(self) -> Image:
        return fresh_image(*TARS)

    def write_layer(self, layer: Layer) -> Layer:
        self._barrier.wait()
        return layer

    def write_image(self, image: Image) -> Receipt:
        return Receipt(image.id)


class Refusing(Meeting):
    """A place that takes no layer, and must not be asked to commit."""

    def write_layer(self, layer: Layer) -> Layer:
        raise FormatError("refused")

    def write_image(self, image: Image) -> Receipt:
        raise AssertionError("committed without its layers")


def test_layers_are_on_their_way_at_the_same_time() -> None:
    assert push_image(fresh_image(*TARS), Meeting()).image_id == fresh_image(*TARS).id


def test_nothing_is_committed_when_a_layer_fails() -> None:
    with pytest.raises(FormatError, match="refused"):
        copy(Meeting(), Refusing())


def test_a_layer_that_an_image_has_twice_is_brought_once(tmp_path: Path) -> None:
    image, tape = stored_image(TARS[0], TARS[0]), Tape(b"")
    blob = image.layers[1].blob
    assert blob
    tape.data = b"".join(blob())
    push_image(
        replace(image, layers=tuple(replace(layer, blob=tape) for layer in image.layers)), Layout(tmp_path)
    )
    assert tape.passes == 1
    assert [layer.diff_id for layer in Layout(tmp_path).read().layers] == [image.layers[0].diff_id] * 2


def test_only_what_the_target_lacks_is_read(tmp_path: Path) -> None:
    push_image(stored_image(TARS[0]), Layout(tmp_path, "old"))
    image = stored_image(TARS[0], TARS[1])
    tapes = [Tape(b"".join(layer.blob())) for layer in image.layers if layer.blob]
    layers = tuple(replace(layer, blob=tape) for layer, tape in zip(image.layers, tapes, strict=True))
    push_image(replace(image, layers=layers), Layout(tmp_path, "new"))
    assert [tape.passes for tape in tapes] == [0, 1]


def test_the_bytes_of_a_copy_are_counted(tmp_path: Path) -> None:
    seen: list[Task] = []
    meter = Meter(lambda: seen.extend(meter.tasks))
    image = stored_image(*TARS)
    push_image(image, Layout(tmp_path), meter=meter, name="copying app")
    (task,) = seen
    sizes = sum(layer.descriptor.size for layer in image.layers if layer.descriptor)
    assert (task.name, task.done, task.total) == ("copying app", sizes, sizes)
    assert meter.tasks == []
