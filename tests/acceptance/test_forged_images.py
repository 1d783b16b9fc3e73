"""A build on an image, or with a cache image, whose config names layers that its blobs are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.shell_buildpack import shell_buildpack
from fakes.small_image import forged_image, tar_of
from fakes.tiny_builder import APP, TinyBuilder, tiny_builder
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, Place, push_image
from packhorse.oci.reference import Reference
from packhorse.testing import FakeRegistry

BUILD = """
layer=$CNB_LAYERS_DIR/one
if [ ! -e "$layer/key" ]; then
    echo "making one"
    mkdir -p "$layer"
    cat one > "$layer/key"
fi
printf '[types]\\nlaunch = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/one.toml"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[TinyBuilder]:
    (tmp_path / "machine").mkdir()
    with tiny_builder(tmp_path / "machine") as made:
        yield made


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "one").write_text("content")
    return tmp_path / "app"


@pytest.fixture
def buildpack(tmp_path: Path) -> Path:
    return shell_buildpack(tmp_path / "bp", "test/keeps", build=BUILD)


def remote(tiny: TinyBuilder, name: Reference) -> Place:
    return Wiring(tiny.store).registry(name, Target.host())


def test_no_application_is_built_on_a_run_image_with_a_forged_layer(
    tiny: TinyBuilder, registry: FakeRegistry, app: Path, buildpack: Path
) -> None:
    before = tiny.build(app, buildpack).exported.image.id
    claimed, evil = tar_of({"etc/motd": b"good" * 5000}), tar_of({"etc/motd": b"evil" * 5000})
    name = Reference.parse(f"{registry.host}/acme/run:1")
    push_image(forged_image(claimed, evil, target=Target.host()), remote(tiny, name))
    with pytest.raises(FormatError, match=rf"(?s){name}.*{Digest.of(claimed)}.*{Digest.of(evil)}"):
        tiny.build(app, buildpack, run_image=str(name))
    assert tiny.store.place(APP).read().id == before
    assert tiny.store.layer(Digest.of(claimed)) is None


def test_a_cache_image_with_a_forged_layer_is_not_used_and_mended(
    tiny: TinyBuilder, registry: FakeRegistry, app: Path, buildpack: Path, tmp_path: Path
) -> None:
    name = Reference.parse(f"{registry.host}/acme/cache:main")
    expected = tiny.build(app, buildpack, cache_image=name).exported.image.config.diff_ids[1:]
    cache = remote(tiny, name).read()
    [good] = [b"".join(layer.tar()) for layer in cache.layers]
    evil = good.replace(b"content", b"CONTENT")
    # The config is what a build gives it, so nothing but the bytes tells that it is to be written anew.
    push_image(Image(cache.config, forged_image(good, evil).layers), remote(tiny, name))
    (tmp_path / "other").mkdir()
    with tiny_builder(tmp_path / "other") as other:
        built = other.build(app, buildpack, cache_image=name)
        assert built.exported.image.config.diff_ids[1:] == expected
        assert any("making one" in line for line in other.lines)
        assert any(f"its digest there is not {Digest.of(good)}" in line for line in other.lines)
    assert [b"".join(layer.tar()) for layer in remote(tiny, name).read().layers] == [good]
