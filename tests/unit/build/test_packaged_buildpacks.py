"""A buildpack builds the same image from wherever it comes: a directory, an archive, a package, a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes import docker_registry
from fakes.buildpackage import cnb_file, composite, package, tgz
from fakes.foreign_builder import Tar
from fakes.observer import Quiet
from fakes.shell_buildpack import SERVER, shell_buildpack
from fakes.small_image import stored_image
from fakes.tiny_builder import APP, BUILDER, TinyBuilder
from packhorse.base.digest import Digest
from packhorse.base.sandbox import Network
from packhorse.base.target import Target
from packhorse.build.description import describe
from packhorse.build.execute import execute
from packhorse.build.host import Host
from packhorse.build.images import Fetch
from packhorse.build.plan import resolve
from packhorse.build.request import BuildRequest
from packhorse.build.verify import request_for, verify
from packhorse.cli.build import _sections
from packhorse.errors import FormatError, InputError
from packhorse.host.wiring import Wiring
from packhorse.lifecycle import labels
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.report.provenance import BuildProvenance
from packhorse.testing import FakeRegistry
from packhorse.testing.file_server import send_file, serve_files

pytestmark = pytest.mark.system  # the builder's root is made by programs, and the tests build


@pytest.fixture
def host(tiny: TinyBuilder, tmp_path: Path) -> Host:
    return Host(tiny.store, Wiring(tiny.store), {"PACKHORSE_HOME": str(tmp_path / "home")})


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    return tmp_path / "app"


def request(app: Path, *buildpacks: str) -> BuildRequest:
    return BuildRequest(
        Reference.parse(APP),
        app,
        builder=BUILDER,
        buildpacks=buildpacks,
        network=Network.NONE,
        clear_cache=True,
    )


def build(app: Path, host: Host, *buildpacks: str) -> Image:
    asked = request(app, *buildpacks)
    return execute(resolve(asked, host, Quiet()), host, Quiet()).exported.image


def push(host: Host, registry: str, image: Image, name: str) -> str:
    reference = f"{registry}/{name}"
    push_image(image, host.images.registry(Reference.parse(reference), Target.host()))
    return reference


def test_every_place_gives_the_same_image(app: Path, host: Host, tmp_path: Path) -> None:
    own = shell_buildpack(tmp_path / "own", "test/own", build=f"id -u; ls -l $CNB_BUILDPACK_DIR\n{SERVER}")
    expected = build(app, host, str(own)).id
    (tmp_path / "registry").mkdir()
    with serve_files() as files, docker_registry.serve(tmp_path / "registry") as address:
        files.answers["/own.tgz"] = [send_file(tgz(own, tmp_path / "own.tgz").read_bytes())]
        places = (
            str(tmp_path / "own.tgz"),
            f"{files.url}/own.tgz",
            str(cnb_file(package(own), tmp_path / "own.cnb")),
            push(host, address, package(own), "test/own:1"),
        )
        for place in places:
            assert build(app, host, place).id == expected, place


@pytest.mark.parametrize("flattened", [False, True])
def test_a_composite_brings_its_buildpacks_along(
    app: Path, host: Host, registry: FakeRegistry, tmp_path: Path, flattened: bool
) -> None:
    members = [
        shell_buildpack(tmp_path / name, f"test/{name}", build=f"echo {name} builds\n{text}")
        for name, text in (("one", ""), ("two", SERVER))
    ]
    both = composite(tmp_path / "both", "test/both", ("test/one", "1.0.0"), ("test/two", "1.0.0"))
    image = package(both, *members, flattened=flattened)
    name = push(host, registry.host, image, "test/both:1")
    built = build(app, host, name)
    metadata = json.loads(built.config.labels[labels.BUILD])
    assert [each["id"] for each in metadata["buildpacks"]] == ["test/one", "test/two"]
    built = build(app, host, "from=builder", name)
    metadata = json.loads(built.config.labels[labels.BUILD])
    assert [each["id"] for each in metadata["buildpacks"]] == ["foreign/shell", "test/one", "test/two"]


def test_a_plan_shows_a_package_and_does_not_fetch_it(
    app: Path, host: Host, registry: FakeRegistry, tmp_path: Path
) -> None:
    image = package(shell_buildpack(tmp_path / "own", "test/own", version="7.0.0"))
    name = push(host, registry.host, image, "test/own:1")
    stored = host.store.images()
    plan = resolve(request(app, name), host, Quiet(), fetch=Fetch.NOTHING)
    assert host.store.images() == stored
    told = describe(plan, host)
    origin = f"docker://{registry.host}/test/own@{image.manifest.digest if image.manifest else ''}"
    assert told["buildpacks"] == [
        {
            "id": "test/own",
            "version": "7.0.0",
            "directory": None,
            "package": str(image.id),
            "locator": origin,
            "inline": False,
        }
    ]
    assert {
        "target": "/cnb/buildpacks/test_own/7.0.0",
        "kind": "package",
        "source": f"image {image.id}",
        "writable": False,
    } in told["mounts"]
    assert ("buildpacks", [f"test/own from {origin}"]) in list(_sections(told))


def test_an_image_records_where_its_buildpacks_can_be_found_again(
    app: Path, host: Host, registry: FakeRegistry, tmp_path: Path
) -> None:
    own = shell_buildpack(tmp_path / "own", "test/own", build=SERVER)
    image = package(own)
    name = push(host, registry.host, image, "test/own:1")
    build(app, host, "from=builder", name)
    built = host.store.place(APP).read()
    known = BuildProvenance.parse(built)
    digest = image.manifest.digest if image.manifest else Digest.of(b"")
    assert known is not None and known.directories == ()
    assert known.buildpacks == ("from=builder", f"docker://{registry.host}/test/own@{digest}")
    # The name now has another buildpack; a verification takes the one of then.
    push(
        host,
        registry.host,
        package(shell_buildpack(tmp_path / "new", "test/own", build="exit 9")),
        "test/own:1",
    )
    again = request_for(built, APP, BuildRequest(Reference.parse("x"), app, network=Network.NONE))
    assert verify(built, again, host, Quiet(), title=APP).is_reproduced

    build(app, host, str(tgz(own, tmp_path / "own.tgz")))
    built = host.store.place(APP).read()
    with pytest.raises(InputError) as raised:
        request_for(built, APP, BuildRequest(Reference.parse("x"), app))
    assert "buildpacks from its own machine (test/own@1.0.0)" in str(raised.value.issues)


@pytest.mark.parametrize("link", [("cnb", "/etc"), ("cnb/buildpacks/test_own", "/etc"), ("other", "x")])
def test_a_package_whose_directory_leads_elsewhere_is_refused(
    app: Path, host: Host, registry: FakeRegistry, tmp_path: Path, link: tuple[str, str]
) -> None:
    tar = Tar()
    tar.link(*link)
    honest = package(shell_buildpack(tmp_path / "own", "test/own"))
    forged = stored_image(tar.close(), target=Target(), labels=dict(honest.config.labels))
    name = push(host, registry.host, forged, "test/own:1")
    with pytest.raises(FormatError, match=r"the package of test/own@1\.0\.0 is not whole"):
        build(app, host, name)
