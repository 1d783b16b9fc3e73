"""Builders of others with unusual users, layers, run images and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fakes import foreign_builder, tiny_root
from fakes.foreign_builder import Tar
from fakes.shell_buildpack import SERVER
from fakes.small_image import Tape, stored_image
from fakes.tiny_builder import BUILDER, RUN, TinyBuilder
from fakes.workshop import metadata
from lanes import first_in_test
from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.labels import BUILD
from packhorse.linux import userns
from packhorse.oci.compress import stored_layer
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Descriptor, Manifest, MediaType
from packhorse.report.builder import EXTENSIONS
from packhorse.store.store import Store
from packhorse.tar.reader import TarReader
from packhorse.testing import FakeRegistry

MANY = 120


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return foreign_builder.base(tiny_root.make(tmp_path_factory.mktemp("tiny") / "root"))


@pytest.fixture
def tiny(layer: bytes, tmp_path: Path) -> Iterator[TinyBuilder]:
    """A store with the run image; each test puts its own builder into it."""
    with Store.open(tmp_path / "store") as store:
        push_image(foreign_builder.run_image(layer), store.place(RUN))
        yield TinyBuilder(store)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "README").write_text("x")
    return tmp_path / "app"


def builder(layer: bytes, **changes: Any) -> Image:
    return foreign_builder.builder_image(layer, **{"run": RUN, "launcher": b"#!/bin/sh\n", **changes})


def said(tiny: TinyBuilder, module: str = "foreign/shell") -> str:
    """What the buildpack said in the last build."""
    start = f"{module}: "
    return "".join(line.removeprefix(start) for line in tiny.lines if line.startswith(start))


def put(tiny: TinyBuilder, image: Image) -> None:
    push_image(image, tiny.store.place(BUILDER))


@pytest.mark.parametrize("user", first_in_test(["70000:70001", "65534:65533", "2147483647:7"]))
def test_a_builders_user_may_have_any_number_and_no_account(
    tiny: TinyBuilder, layer: bytes, app: Path, user: str
) -> None:
    uid, gid = user.split(":")
    looks = 'stat -c "%u:%g %n" . README "$CNB_LAYERS_DIR"\n'
    put(tiny, builder(layer, build=looks + SERVER, env={"CNB_USER_ID": uid, "CNB_GROUP_ID": gid}))
    image = tiny.build(app).exported.image
    assert said(tiny).startswith(f"{uid}\nhome /\n{user} .\n{user} README\n{user} /layers/foreign_shell\n")
    owners = {
        header.name.decode(): f"{header.uid}:{header.gid}"
        for part in image.layers
        for header in TarReader(part.tar())
        if header.name.endswith((b"/say", b"/README"))
    }
    assert owners == {"/layers/foreign_shell/tools/bin/say": user, "/workspace/README": user}


@pytest.mark.parametrize("number", ["2147483648", "-1", "99999999999"])
def test_a_user_that_linux_cannot_have_is_refused(
    tiny: TinyBuilder, layer: bytes, app: Path, number: str
) -> None:
    put(tiny, builder(layer, env={"CNB_GROUP_ID": number}))
    with pytest.raises(FormatError) as raised:
        tiny.build(app)
    expected = f"its variable CNB_GROUP_ID is '{number}', and must be a number from 0 to 2147483647"
    assert raised.value.why == expected


@pytest.mark.torture
def test_a_builder_and_a_run_image_of_many_layers_are_whole(
    tiny: TinyBuilder, layer: bytes, app: Path
) -> None:
    above = []
    for number in range(MANY):
        tar = Tar()
        tar.file(f"many/{number}", str(number))
        tar.file("last", str(number))
        if number % 10 == 9:
            tar.file(f"many/.wh.{number - 1}", b"")
        above.append(tar.close())
    put(tiny, builder(layer, build=f'cat /last; set -- /many/*; echo " $#"\n{SERVER}', above=above))
    run = stored_image(layer, *above, user="1001:1002")
    push_image(run, tiny.store.place(RUN))
    image = tiny.build(app).exported.image
    assert f"\n{MANY - 1} {MANY - MANY // 10}\n" in said(tiny)
    root = tiny.store.root(image, userns.choose_map(1001, 1002))
    assert len(list((root / "many").iterdir())) == MANY - MANY // 10
    assert (root / "last").read_text() == str(MANY - 1)
    assert (root / "workspace/README").read_text() == "x"


def in_zstd(image: Image) -> Image:
    """The same image with layers as another program compresses them."""
    layers = []
    for old in image.layers:
        tar = b"".join(old.tar())
        blob = zstandard.compress(tar)
        descriptor = Descriptor(MediaType.OCI_LAYER_ZSTD, Digest.of(blob), len(blob))
        layers.append(stored_layer(Tape(blob), descriptor, Digest.of(tar)))
    config = Descriptor(MediaType.OCI_CONFIG, image.config.digest, len(image.config.raw))
    manifest = Manifest.of(config, [part.descriptor for part in layers if part.descriptor])
    return replace(image, layers=tuple(layers), manifest=manifest)


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["oci", "oci-archive"])
def test_layers_compressed_with_zstd_are_built_on(
    tiny: TinyBuilder, layer: bytes, app: Path, tmp_path: Path, kind: str
) -> None:
    put(tiny, builder(layer, build=SERVER))
    expected = tiny.build(app).exported.image.id
    with Store.open(tmp_path / "other") as store:
        other = TinyBuilder(store)
        at = f"{kind}:{tmp_path / 'images'}:acme/builder:1"
        push_image(in_zstd(builder(layer, build=SERVER)), Wiring(store).place(Location.parse(at)))
        push_image(in_zstd(foreign_builder.run_image(layer)), store.place(RUN))
        written = Wiring(store).place(Location.parse(at)).read()
        assert {next(part.blob())[:4] for part in written.layers} == {b"\x28\xb5\x2f\xfd"}
        image = other.build(app, builder=at).exported.image
        assert image.id == expected
        root = store.root(image, userns.choose_map(1001, 1002))
        assert (root / "workspace/README").read_text() == "x"


@pytest.mark.parametrize("publish", [False, True])
def test_a_living_mirror_stands_in_for_a_dead_run_image_and_a_dead_mirror(
    tiny: TinyBuilder, layer: bytes, app: Path, publish: bool
) -> None:
    with FakeRegistry() as registry:
        living = f"{registry.host}/mirror/run"
        dead = ["127.0.0.1:1/acme/run", "127.0.0.1:1/mirror/run"]
        wiring = Wiring(tiny.store)
        push_image(foreign_builder.run_image(layer), wiring.place(Location.parse(f"docker://{living}")))
        put(tiny, builder(layer, run=dead[0], mirrors=[dead[1], living], build=SERVER))
        name = f"{registry.host}/acme/app" if publish else "packhorse.local/acme/app"
        label = metadata(tiny.build(app, name=name, publish=publish).exported.image)["runImage"]
        assert (label["image"], label["mirrors"]) == (dead[0], [dead[1], living])
        assert not publish or label["reference"].startswith(living)


def test_a_builder_with_extensions_that_nothing_needs_makes_the_same_image(
    tiny: TinyBuilder, layer: bytes, app: Path
) -> None:
    put(tiny, builder(layer, build=SERVER))
    expected = tiny.build(app).exported.image.id
    files = Tar()
    where = "cnb/extensions/some_ext/1"
    for name in ("cnb/extensions", "cnb/extensions/some_ext", where, f"{where}/bin"):
        files.directory(name)
    files.file(f"{where}/extension.toml", 'api = "0.10"\n[extension]\nid = "some/ext"\nversion = "1"\n')
    for name in ("detect", "generate"):
        files.file(f"{where}/bin/{name}", "#!/bin/sh\necho an extension runs\nexit 1\n", mode=0o755)
    files.file(
        "cnb/order.toml",
        '[[order]]\n[[order.group]]\nid = "foreign/shell"\n'
        '[[order-extensions]]\n[[order-extensions.group]]\nid = "some/ext"\nversion = "1"\n',
    )
    more = {
        EXTENSIONS: json.dumps([{"group": [{"id": "some/ext", "version": "1"}]}]),
        "io.buildpacks.extension.layers": json.dumps({"some/ext": {"1": {"api": "0.10"}}}),
    }
    put(tiny, builder(layer, build=SERVER, above=[files.close()], more=more))
    assert tiny.build(app).exported.image.id == expected
    assert "image extensions are not supported yet: the builder's are not run: some/ext@1" in tiny.lines
    assert not any("an extension runs" in line for line in tiny.lines)


def system_buildpack(tar: Tar, name: str) -> None:
    where = f"cnb/buildpacks/system_{name}"
    for directory in (where, f"{where}/1", f"{where}/1/bin"):
        tar.directory(directory)
    tar.file(f"{where}/1/buildpack.toml", f'api = "0.10"\n[buildpack]\nid = "system/{name}"\nversion = "1"\n')
    detect = "exit 100" if name == "unwilling" else "exit 0"
    tar.file(f"{where}/1/bin/detect", f"#!/bin/sh\n{detect}\n", mode=0o755)
    tar.file(f"{where}/1/bin/build", "#!/bin/sh\necho builds\n", mode=0o755)


def test_a_builders_system_buildpacks_stand_before_and_after_its_own(
    tiny: TinyBuilder, layer: bytes, app: Path
) -> None:
    files = Tar()
    text = ""
    for when, name in (("pre", "first"), ("post", "unwilling"), ("post", "last")):
        system_buildpack(files, name)
        optional = "optional = true\n" if name == "unwilling" else ""
        text += f'[[system.{when}.buildpacks]]\nid = "system/{name}"\nversion = "1"\n{optional}'
    files.file("cnb/system.toml", text)
    put(tiny, builder(layer, build=SERVER, above=[files.close()], platforms=["0.15"]))
    image = tiny.build(app).exported.image
    built = [part["id"] for part in json.loads(image.config.labels[BUILD])["buildpacks"]]
    assert built == ["system/first", "foreign/shell", "system/last"]
    assert said(tiny, "system/first") == said(tiny, "system/last") == "builds\n"
    image = tiny.build(app, system_buildpacks=False).exported.image
    assert [part["id"] for part in json.loads(image.config.labels[BUILD])["buildpacks"]] == ["foreign/shell"]


def test_an_operators_variables_are_applied_by_their_suffixes(
    tiny: TinyBuilder, layer: bytes, app: Path
) -> None:
    given = {
        "PLAIN": "user",
        "SET": "user",
        "OVER": "user",
        "FRONT": "user",
        "BACK": "user",
        "JOINED": "user",
    }
    contents = {
        "PLAIN": "op",
        "UNSET": "op",
        "SET.default": "op",
        "NEW.default": "op",
        "OVER.override": "op",
        "FRONT.prepend": "op",
        "FRONT.delim": ":",
        "BACK.append": "op",
        "JOINED.append": "op",
        "JOINED.delim": "-",
        "ODD.other": "op",
    }
    files = Tar()
    files.directory("cnb/build-config")
    files.directory("cnb/build-config/env")
    for name, text in contents.items():
        files.file(f"cnb/build-config/env/{name}", text)
    shows = 'echo "$PLAIN $UNSET $SET $NEW $OVER $FRONT $BACK $JOINED <${ODD:-}>"\n' + SERVER
    put(tiny, builder(layer, build=shows, above=[files.close()]))
    tiny.build(app, env=given)
    assert "\nuser op user op op op:user userop user-op <>\n" in said(tiny)
