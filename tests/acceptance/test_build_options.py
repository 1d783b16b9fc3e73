"""Options of `packhorse build` in real builds with shell buildpacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.observer import Quiet
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.build.verify import request_for, verify
from packhorse.lifecycle.stages import Exported


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyBuilder]:
    with tiny_builder(tmp_path_factory.mktemp("tiny")) as opened:
        yield opened


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("hello")
    return tmp_path / "app"


def built(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str, **asked: object) -> Exported:
    return tiny.build(app, *buildpacks, name=f"{APP}-{name}", **asked).exported


def is_reproduced(tiny: TinyBuilder, app: Path, *buildpacks: Path, name: str) -> bool:
    """Whether `packhorse verify` builds the same image without being told the options again."""
    image = tiny.store.place(f"{APP}-{name}").read()
    asked = tiny.request(app, *buildpacks, name=f"{APP}-{name}", builder="")
    request = request_for(image, name, asked)
    return verify(image, request, tiny.host, Quiet(), title=name).is_reproduced


def test_labels_of_the_user_replace_those_of_buildpacks(tiny: TinyBuilder, app: Path, tmp_path: Path) -> None:
    label = '[[labels]]\nkey = "{0}"\nvalue = "buildpack"\n'.format
    toml = f'cat >> "$CNB_LAYERS_DIR/launch.toml" <<END\n{label("one")}{label("two")}END'
    own = shell_buildpack(tmp_path / "own", build=f"{SERVER}\n{toml}")
    labels = built(tiny, app, own, name="labels", labels={"two": "user <&>", "three": ""}).image.config.labels
    assert {name: labels[name] for name in ("one", "two", "three")} == {
        "one": "buildpack",
        "two": "user <&>",
        "three": "",
    }
    assert is_reproduced(tiny, app, own, name="labels")
