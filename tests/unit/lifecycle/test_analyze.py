"""What the run image and the previous one say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fakes.small_image import fresh_image, tar_of
from packhorse.base.target import Distro, Target
from packhorse.errors import AnalyzeError, FormatError, NetworkError, NotFoundError
from packhorse.lifecycle.analyze import analyze
from packhorse.oci.place import Image, Layer, Receipt
from packhorse.oci.types import Config

TAR = tar_of({"x": b""})


@dataclass(frozen=True)
class Refusing:
    """A place that cannot be read."""

    error: Exception

    def read(self) -> Image:
        raise self.error

    def write_layer(self, layer: Layer) -> Layer:
        raise AssertionError("nothing is written")

    def write_image(self, image: Image) -> Receipt:
        raise AssertionError("nothing is written")


@pytest.mark.parametrize(
    ("labels", "distro"),
    [
        ({}, None),
        ({"name": "ubuntu", "version": "24.04"}, Distro("ubuntu", "24.04")),
        ({"name": "wolfi"}, Distro("wolfi", "")),
        ({"name": "", "version": ""}, None),
    ],
)
def test_the_target_is_that_of_the_run_image(labels: dict[str, str], distro: Distro | None) -> None:
    named = {f"io.buildpacks.base.distro.{name}": text for name, text in labels.items()}
    image = fresh_image(TAR, target=Target("linux", "arm64", "v8"), labels=named)
    analyzed = analyze(image, "reference", None)
    assert analyzed.target == Target("linux", "arm64", "v8", distro)
    assert (analyzed.run_image, analyzed.run_reference) == (image, "reference")
    assert (analyzed.previous, analyzed.metadata.buildpacks) == (None, ())


def test_a_run_image_without_a_system_is_refused() -> None:
    image = Image(Config.parse(b"{}"), ())
    with pytest.raises(AnalyzeError) as raised:
        analyze(image, "", None)
    assert raised.value.exit_code == 32


@pytest.mark.parametrize("error", [NotFoundError("none"), FormatError("broken")])
def test_a_previous_image_that_is_missing_or_broken_is_none(error: Exception) -> None:
    assert analyze(fresh_image(TAR), "", Refusing(error)).previous is None


def test_a_place_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(NetworkError):
        analyze(fresh_image(TAR), "", Refusing(NetworkError("no answer")))
