"""Equal inputs give the image that the Go lifecycle 0.21.0 makes: layers, config, image ID.

The figures are in tests/golden/images. The buildpacks run in the real sandbox, over a root file system made
of this machine's shell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.image_build import Machine, build_case, open_machine
from fakes.image_case import CASES, ImageCase
from fakes.image_listing import listing, readable, same
from packhorse.store.store import Store

pytestmark = pytest.mark.system

NAMES = sorted(path.name for path in CASES.iterdir())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with open_machine(tmp_path_factory.mktemp("machine") / "root", ["mkfifo"]) as machine:
        yield machine


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_the_one_that_the_reference_makes(name: str, machine: Machine, tmp_path: Path) -> None:
    case = ImageCase.load(name)
    skip = len(case.run_image().layers)
    with Store.open(tmp_path / "store") as store:
        for number in range(1, case.builds + 1):
            with store.scratch() as scratch:
                image = build_case(case, machine, store, scratch)
                config, layers = case.expected(number)
                tars = [b"".join(layer.tar()) for layer in image.layers]
            ours = listing(json.loads(image.config.raw), tars, skip=skip)
            same(f"{name}, build {number}: layers", layers.splitlines(), ours.splitlines())
            same(f"{name}, build {number}: config", readable(config), readable(image.config.raw))
            assert image.config.raw == config
