"""A rebased image is the one that the Go lifecycle's rebaser 0.21.0 makes, or is refused as there.

The figures, and how they came about, are in tests/golden/rebase.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fakes.image_case import run_layer
from fakes.image_listing import readable, same
from packhorse.errors import FormatError, RebaseError
from packhorse.lifecycle.rebase import RunImage, rebase
from packhorse.oci.mutate import engine_view
from packhorse.oci.place import Image
from packhorse.oci.types import Config

CASES = Path(__file__).parent / "rebase" / "cases"
NAMES = sorted(path.name for path in CASES.iterdir())
LAYERS = {layer.diff_id: layer for layer in map(run_layer, range(12))}


@dataclass(frozen=True)
class Case:
    app: Image
    run_image: RunImage
    force: bool
    expected: bytes | None

    @classmethod
    def load(cls, name: str) -> Case:
        values = tomllib.loads((CASES / name / "case.toml").read_text())
        app, base = _image(CASES / name / "app.json"), _image(CASES / name / "base.json")
        if values.get("kind") == "engine":
            app = replace(app, config=engine_view(app.config))
        run_image = RunImage(base, values["run-image"], values["reference"])
        path = CASES / name / "expected.config.json"
        expected = None if values.get("refused") else path.read_bytes()
        return cls(app, run_image, values.get("force", False), expected)


def _image(path: Path) -> Image:
    config = Config.parse(path.read_bytes())
    return Image(config, tuple(LAYERS[diff_id] for diff_id in config.diff_ids))


@pytest.mark.parametrize("name", NAMES)
def test_a_rebased_image_is_the_one_that_the_reference_makes(name: str) -> None:
    case = Case.load(name)
    said: list[str] = []
    if case.expected is None:
        with pytest.raises((RebaseError, FormatError)):
            rebase(case.app, case.run_image, force=case.force, say=said.append)
        return
    image = rebase(case.app, case.run_image, force=case.force, say=said.append)
    same(name, readable(case.expected), readable(image.config.raw))
    assert image.config.raw == case.expected
    assert [layer.diff_id for layer in image.layers] == list(image.config.diff_ids)
    assert bool(said) == name.endswith(("-forced", "-forced-engine"))
