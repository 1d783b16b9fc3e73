"""Builders of others: whose launcher an image gets, system buildpacks, and variables of the operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes import foreign_builder, tiny_root
from fakes.foreign_builder import Tar
from fakes.observer import Quiet
from fakes.tiny_builder import APP, BUILDER, RUN
from packhorse.base import installation
from packhorse.base.sandbox import Network
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.build.verify import request_for, verify
from packhorse.errors import ExportError
from packhorse.host.wiring import Wiring
from packhorse.lifecycle import labels
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.report.owners import LayerPart, owned_layers
from packhorse.store.store import Store
from packhorse.tar.reader import TarReader

pytestmark = pytest.mark.system  # the builder's root is made by programs, and the tests build

GO = b"#!/bin/sh\necho a Go program\n"


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return foreign_builder.base(tiny_root.make(tmp_path_factory.mktemp("tiny") / "root"))


@pytest.fixture
def host(layer: bytes, tmp_path: Path) -> Iterator[Host]:
    sbom = Tar()
    sbom.file("cnb/lifecycle/launcher.sbom.cdx.json", '{"bomFormat":"CycloneDX","specVersion":"1.5"}')
    with Store.open(tmp_path / "store") as store:
        builder = foreign_builder.builder_image(layer, run=RUN, launcher=GO, above=[sbom.close()])
        push_image(builder, store.place(BUILDER))
        push_image(foreign_builder.run_image(layer), store.place(RUN))
        yield Host(store, Wiring(store))


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    return tmp_path / "app"


def build(app: Path, host: Host, launcher: str) -> Image:
    request = BuildRequest(
        Reference.parse(APP), app, builder=BUILDER, launcher=launcher, network=Network.NONE
    )
    return execute(resolve(request, host, Quiet()), host, Quiet()).exported.image


def files(image: Image, part: LayerPart) -> dict[str, bytes]:
    metadata = labels.LayersMetadata.parse(image.config.labels[labels.LIFECYCLE])
    found = {}
    for owned in owned_layers(image, metadata):
        if owned.part is part:
            archive = TarReader(owned.layer.tar())
            for header in archive:
                content = b"".join(bytes(piece) for _, piece in archive.content())
                if header.type == b"0":
                    found[header.name.decode()] = content
    return found


def test_an_image_gets_the_builders_launcher_or_ours(app: Path, host: Host) -> None:
    theirs = build(app, host, "")
    assert files(theirs, LayerPart.LAUNCHER) == {"/cnb/lifecycle/launcher": GO}
    assert any("buildpacksio_lifecycle" in name for name in files(theirs, LayerPart.SBOM))
    ours = build(app, host, "own")
    expected = installation.launcher(ours.config.architecture)
    assert files(ours, LayerPart.LAUNCHER) == {"/cnb/lifecycle/launcher": expected}
    assert not any("buildpacksio_lifecycle" in name for name in files(ours, LayerPart.SBOM))
    launcher = json.loads(ours.config.labels[labels.BUILD])["launcher"]
    assert launcher["version"] == installation.launcher_version()
    assert json.loads(theirs.config.labels[labels.BUILD])["launcher"]["version"] == "0.20.11"

    built = host.store.place(APP).read()
    again = request_for(built, APP, BuildRequest(Reference.parse("x"), app, network=Network.NONE))
    assert again.launcher == "own"
    assert verify(built, again, host, Quiet(), title=APP).is_reproduced


def test_a_builders_own_settings_hold(app: Path, host: Host, layer: bytes) -> None:
    more = Tar()
    where = "cnb/buildpacks/foreign_system/1.0.0"
    for name in (
        "cnb/buildpacks/foreign_system",
        where,
        f"{where}/bin",
        "cnb/build-config",
        "cnb/build-config/env",
    ):
        more.directory(name)
    more.file(
        f"{where}/buildpack.toml", 'api = "0.10"\n[buildpack]\nid = "foreign/system"\nversion = "1.0.0"\n'
    )
    more.file(f"{where}/bin/detect", "#!/bin/sh\n", mode=0o755)
    more.file(f"{where}/bin/build", '#!/bin/sh\necho "operator: $SETTING"\n', mode=0o755)
    more.file("cnb/system.toml", '[[system.pre.buildpacks]]\nid = "foreign/system"\nversion = "1.0.0"\n')
    more.file("cnb/build-config/env/SETTING.override", "on")
    for platforms, expected in ((["0.15"], True), (["0.14"], False)):
        builder = foreign_builder.builder_image(
            layer, run=RUN, launcher=GO, above=[more.close()], platforms=platforms
        )
        push_image(builder, host.store.place(BUILDER))
        observer = Quiet()
        request = BuildRequest(Reference.parse(APP), app, builder=BUILDER, network=Network.NONE)
        execute(resolve(request, host, observer), host, observer)
        assert ("foreign/system: operator: on\n" in observer.lines) is expected


def test_a_builder_without_a_launcher_needs_ours(app: Path, host: Host, layer: bytes) -> None:
    gone = Tar()
    gone.file("cnb/lifecycle/.wh.launcher", b"")
    builder = foreign_builder.builder_image(layer, run=RUN, launcher=GO, above=[gone.close()])
    push_image(builder, host.store.place(BUILDER))
    with pytest.raises(ExportError) as raised:
        build(app, host, "")
    assert raised.value.fix == "use packhorse's own: --launcher own"
    assert build(app, host, "own").config.entrypoint == ("/cnb/process/talk",)
