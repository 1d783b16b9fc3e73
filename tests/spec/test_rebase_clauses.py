"""Rebasing: which run image, what is checked, what changes (platform.md "rebaser").

That the images are the reference's is held by tests/golden/test_rebase.py.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.app_image import LIFECYCLE, App
from fakes.command import Command
from fakes.small_image import EPOCH, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import InputError, RebaseError, UnknownRunImage
from packhorse.fleet.rebase import rebase as rebase_one
from packhorse.fleet.rebase_plan import RebaseRequest
from packhorse.fleet.run_images import RunImages
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.rebase import RunImage, rebase
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location, LocationKind
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry

TARGET = {"io.buildpacks.base.distro.name": "acmelinux", "io.buildpacks.base.distro.version": "12"}
NEW = (tar_of({"etc/os-release": b"patched\n"}), tar_of({"etc/motd": b"hi\n"}), tar_of({"etc/more": b"x"}))


def base(**fields: Any) -> Image:
    return stored_image(*NEW, **{"labels": TARGET, **fields})


def on(app: Image, image: Image, *, name: str = "acme/run", force: bool = False) -> Image:
    return rebase(app, RunImage(image, name, "the-reference"), force=force, say=lambda _: None)


def app(**fields: Any) -> Image:
    return App(**{"labels": TARGET, **fields}).image()


def label(image: Image) -> Any:
    return json.loads(image.config.labels[LIFECYCLE])


@pytest.fixture
def wiring(tmp_path: Path) -> Iterator[Wiring]:
    with Store.open(tmp_path / "store") as store:
        yield Wiring(store)


def local(name: str) -> Location:
    return Location(LocationKind.STORE, "", name)


def ask(wiring: Wiring, request: RebaseRequest) -> Image:
    rebase_one(request, wiring, RunImages(wiring, say=lambda _: None))
    return wiring.place(request.location).read()


def test_P_118_an_image_has_to_be_named_as_images_are(wiring: Wiring) -> None:
    with pytest.raises(InputError, match="not an image name"):
        Location.parse("docker://Not/A Name")


def test_P_119_an_image_that_is_not_rebasable_is_rebased_by_force_alone() -> None:
    image = app(labels={**TARGET, "io.buildpacks.rebasable": "false"})
    with pytest.raises(RebaseError, match="not to be rebased") as raised:
        on(image, base())
    assert raised.value.exit_code == 72
    assert on(image, base(), force=True).layers
    assert on(app(), base()).layers  # where nothing is said it may be


def test_P_120_another_image_is_rebased_and_stays_what_it_was(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        push_image(base(), wiring.place(Location.parse(f"docker://{registry.host}/run")))
        push_image(app(), wiring.store.place("acme/old"))
        asked = RebaseRequest(local("acme/new"), local("acme/old"), f"{registry.host}/run", force=True)
        image = ask(wiring, asked)
    assert wiring.store.place("acme/old").read().id == app().id
    assert image.config.diff_ids[:3] == tuple(map(Digest.of, NEW))


@pytest.mark.parametrize("where", ["runImage", "stack"])
def test_P_121_the_run_image_is_the_one_that_the_label_names(wiring: Wiring, where: str) -> None:
    with FakeRegistry() as registry:
        push_image(base(), wiring.place(Location.parse(f"docker://{registry.host}/mirror/run")))
        named = {"image": f"{registry.host}/gone/run", "mirrors": [f"{registry.host}/mirror/run"]}
        run = {"topLayer": label(app())["runImage"]["topLayer"], "reference": "abc"}
        changes = (
            {"runImage": run | named}
            if where == "runImage"
            else {"runImage": run, "stack": {"runImage": named}}
        )
        push_image(app(lifecycle=changes), wiring.store.place("acme/app"))
        image = ask(wiring, RebaseRequest(local("acme/app"), local("acme/app")))
    assert image.config.diff_ids[:3] == tuple(map(Digest.of, NEW))


def test_P_121_of_several_the_one_in_the_images_own_registry_is_taken(wiring: Wiring) -> None:
    with FakeRegistry() as far, FakeRegistry() as near:
        for registry, image in ((far, stored_image(NEW[0], labels=TARGET)), (near, base())):
            push_image(image, wiring.place(Location.parse(f"docker://{registry.host}/run")))
        top = label(app())["runImage"]["topLayer"]
        run = {"topLayer": top, "image": f"{far.host}/run", "mirrors": [f"{near.host}/run"]}
        location = Location.parse(f"docker://{near.host}/app")
        push_image(app(lifecycle={"runImage": run}), wiring.place(location))
        image = ask(wiring, RebaseRequest(location, location))
    assert image.config.diff_ids[:3] == tuple(map(Digest.of, NEW))


def test_P_008_P_123_the_layers_up_to_the_top_of_the_base_are_replaced_and_no_others() -> None:
    old = app()
    image = on(old, base())
    assert image.config.diff_ids == (*map(Digest.of, NEW), *old.config.diff_ids[2:])
    assert [layer.diff_id for layer in image.layers] == list(image.config.diff_ids)


def test_P_123_a_base_ends_with_the_last_of_its_layers_that_are_equal() -> None:
    empty, patched = tar_of({}), tar_of({"lib/libssl": b"not patched\n"})
    old = app(base=[empty, patched, empty], app=[tar_of({"workspace/a": b"a"}), empty])
    image = on(old, base())
    assert image.config.diff_ids == (*map(Digest.of, NEW), *old.config.diff_ids[3:])
    assert len(image.layers) == len(NEW) + 4


def test_P_009_P_124_the_label_says_what_the_image_is_on_now() -> None:
    run = label(on(app(), base()))["runImage"]
    assert run["topLayer"] == str(Digest.of(NEW[-1])) and run["reference"] == "the-reference"
    assert run["image"] == "acme/run" and run["mirrors"] == ["mirror.example/run"]


def test_P_008_P_009_P_125_labels_of_the_base_are_the_new_ones_and_all_others_stay() -> None:
    old = {**TARGET, "io.buildpacks.base.id": "old", "io.buildpacks.stack.id": "s", "mine": "1"}
    labels = on(
        app(labels=old), base(labels={**TARGET, "io.buildpacks.base.id": "new", "theirs": "2"})
    ).config.labels
    assert labels["io.buildpacks.base.id"] == "new" and labels["mine"] == "1"
    assert "io.buildpacks.stack.id" not in labels and "theirs" not in labels


def test_P_126_by_force_the_target_is_the_new_run_images() -> None:
    labels = {**TARGET, "io.buildpacks.base.distro.version": "13"}
    config = on(app(), base(labels=labels, target=Target(arch="arm64")), force=True).config
    assert config.architecture == "arm64"
    assert config.labels["io.buildpacks.base.distro.version"] == "13"


@pytest.mark.parametrize("name", sorted(TARGET))
def test_P_127_without_force_it_has_to_be_the_images(name: str) -> None:
    with pytest.raises(RebaseError, match="made for something else"):
        on(app(), base(labels={**TARGET, name: "other"}))
    left_open = {key: value for key, value in TARGET.items() if key != name}
    assert on(app(), base(labels=left_open)).layers


def test_P_128_by_force_an_unknown_run_image_is_named_and_mirrors_are_forgotten() -> None:
    said = label(on(app(), base(), name="other/run", force=True))
    assert said["runImage"]["image"] == "other/run" and "mirrors" not in said["runImage"]
    assert said["stack"] == {"runImage": {"image": "other/run"}}


def test_P_129_without_force_it_has_to_be_one_that_the_image_names() -> None:
    with pytest.raises(UnknownRunImage, match="another run image"):
        on(app(), base(), name="other/run")
    assert on(app(), base(), name="mirror.example/run").layers
    assert on(app(), base(), name=f"acme/run@{Digest.of(b'')}").layers


def test_P_130_it_was_made_at_a_constant_time() -> None:
    config = on(app(), base()).config
    assert config.created == EPOCH and {entry.created for entry in config.history} == {EPOCH}


def test_P_132_what_is_refused_ends_in_a_code_of_the_rebaser() -> None:
    for error in (RebaseError("x", why="y"), UnknownRunImage("x", why="y")):
        assert error.exit_code in range(70, 80)


@pytest.mark.system
def test_P_131_a_report_tells_what_was_written(tmp_path: Path) -> None:
    command = Command(tmp_path)
    with FakeRegistry() as registry:
        app_name = f"{registry.host}/app"
        with Store.open(tmp_path / "store") as store:
            wiring = Wiring(store)
            push_image(base(), wiring.place(Location.parse(f"docker://{registry.host}/run")))
            push_image(app(), wiring.place(Location.parse(f"docker://{app_name}")))
        command.ok(
            "rebase",
            app_name,
            "--publish",
            "--force",
            "--run-image",
            f"{registry.host}/run",
            "--report-output-dir",
            tmp_path / "out",
        )
        report = tomllib.loads((tmp_path / "out" / "report.toml").read_text())
        _, written = registry.manifests["app", "latest"]
    digest = str(Digest.of(written))
    assert report == {"image": {"tags": [app_name], "digest": digest, "manifest-size": len(written)}}
