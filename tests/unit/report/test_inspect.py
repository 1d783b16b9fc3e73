"""What an image says of itself; what pack 0.40.5 prints of the same images was measured, with a real pack."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fakes.app_image import BASE, App
from fakes.artifact import SIGNATURE, attach, attach_by_tag
from fakes.foreign_builder import builder_image
from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError
from packhorse.host.locate import read
from packhorse.host.wiring import Wiring
from packhorse.oci.place import push_image
from packhorse.oci.reference import Location, Reference
from packhorse.oci.types import Index
from packhorse.report.inspect import attachments, base_of, inspect
from packhorse.report.owners import LayerPart
from packhorse.testing import FakeRegistry

NODE, MODULES = tar_of({"layers/node/bin/node": b"node"}), tar_of({"layers/node_modules/x": b"x"})
SBOM = tar_of({"layers/sbom/launch/sbom.legacy.json": b"null\n"})
SAMPLE = App(layers={"acme/node:node": NODE, "acme/npm:modules": MODULES}, sbom=SBOM)
OF_PACK: dict[str, Any] = {
    "stack": "",
    "base_image": {"top_layer": str(Digest.of(BASE[-1])), "reference": "abc"},
    "run_images": [{"name": "acme/run"}, {"name": "mirror.example/run"}],
    "buildpacks": [
        {"id": "acme/node", "version": "1.2", "homepage": "https://x.example"},
        {"id": "acme/npm", "version": "1.2", "homepage": "https://x.example"},
    ],
    "extensions": None,
    "processes": [
        {
            "type": "web",
            "shell": "",
            "command": "node",
            "default": True,
            "args": ["server.js", "now"],
            "working-dir": "/workspace",
        },
        {"type": "task", "shell": "", "command": "tidy", "default": False, "args": None, "working-dir": "/w"},
    ],
    "rebasable": True,
}


def test_programs_get_what_pack_gives_them() -> None:
    fields = inspect(SAMPLE.image(), name="acme/app").fields()
    assert fields["image_name"] == "acme/app" and fields["remote_info"] is None
    assert fields["local_info"] == OF_PACK
    remote = inspect(SAMPLE.image(), remote=True).fields()
    assert remote["local_info"] is None and remote["remote_info"] == OF_PACK


@pytest.mark.parametrize(("form", "lists", "arguments"), [("yaml", [], []), ("toml", None, [])])
def test_what_has_no_entries_is_written_as_pack_writes_it(form: str, lists: Any, arguments: Any) -> None:
    fields: Any = inspect(SAMPLE.image()).fields(form=form)["local_info"]
    assert fields["extensions"] == lists
    assert fields["processes"][1]["args"] == arguments
    nothing: Any = inspect(stored_image(BASE[0])).fields(form=form)["local_info"]
    assert nothing["buildpacks"] == nothing["run_images"] == nothing["processes"] == lists


def test_an_image_of_an_old_lifecycle_is_read_as_pack_reads_it() -> None:
    old = App(
        lifecycle={
            "runImage": {"topLayer": "sha256:0", "reference": "abc"},
            "stack": {"runImage": {"image": "acme/old", "mirrors": ["m/old"]}},
        },
        build={
            "launcher": {"version": "0.4.0"},
            "processes": [
                {"type": "web", "command": "run it", "args": ["x"]},
                {"type": "z", "command": ["q"]},
            ],
            "bom": [
                {"name": "a", "version": "1", "metadata": {"k": 1}, "buildpack": {"id": "b", "version": "2"}}
            ],
        },
        labels={"io.buildpacks.rebasable": "false", "io.buildpacks.stack.id": "acme.stack"},
        config={"env": ["CNB_PLATFORM_API=0.3", "CNB_PROCESS_TYPE=z"], "working_dir": "", "entrypoint": []},
    )
    report = inspect(old.image())
    fields: Any = report.fields()["local_info"]
    assert fields["stack"] == "acme.stack" and fields["rebasable"] is False
    assert fields["base_image"]["reference"] == ""
    assert fields["run_images"] == [{"name": "acme/old"}, {"name": "m/old"}]
    assert [(one["type"], one["shell"], one["default"]) for one in fields["processes"]] == [
        ("z", "bash", True),
        ("web", "bash", False),
    ]
    entry = {"name": "a", "version": "1", "metadata": {"k": 1}, "buildpacks": {"id": "b", "version": "2"}}
    assert report.bom() == {"remote": None, "local": [entry]}


def test_every_layer_has_an_owner_and_its_size() -> None:
    report = inspect(SAMPLE.image())
    assert [(owned.part, owned.owner, owned.name) for owned in report.layers] == [
        (LayerPart.BASE, "", "1"),
        (LayerPart.BASE, "", "2"),
        (LayerPart.BUILDPACK, "acme/node", "node"),
        (LayerPart.BUILDPACK, "acme/npm", "modules"),
        (LayerPart.SBOM, "", ""),
        (LayerPart.APP, "", ""),
        (LayerPart.LAUNCHER, "", ""),
        (LayerPart.CONFIG, "", ""),
    ]
    fields: Any = report.fields()["layers"]
    assert fields[2]["version"] == "1.2" and fields[2]["compressed_size"] > 0
    assert report.has_sbom and "sbom        yes" in "\n".join(report.lines())


def test_equal_layers_are_told_apart_by_their_order() -> None:
    empty = tar_of({})
    report = inspect(replace(SAMPLE, layers={"a:x": empty, "b:y": empty}, app=(empty, empty)).image())
    told = [owned.title for owned in report.layers]
    assert told[2:] == ["a:x", "b:y", "sbom", "app slice 1", "app slice 2", "launcher", "config"]


def test_layers_of_an_image_of_another_origin_have_their_history() -> None:
    report = inspect(stored_image(*BASE))
    assert [(owned.part, owned.name) for owned in report.layers] == [
        (LayerPart.OTHER, "layer 0"),
        (LayerPart.OTHER, "layer 1"),
    ]
    assert "buildpacks  none: it was not built by buildpacks" in list(report.lines())


def test_labels_that_are_wrong_are_told() -> None:
    for build in ({"processes": 3}, {"buildpacks": [{"id": 7}]}, {"bom": ["x"]}, {"launcher": "x"}):
        with pytest.raises(FormatError, match=r"io\.buildpacks\.build\.metadata"):
            inspect(App(build=build).image())
    with pytest.raises(FormatError, match="is not JSON"):
        inspect(App(labels={"io.buildpacks.lifecycle.metadata": "{"}).image())


def test_a_remote_image_costs_two_requests(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/app:1"
        push_image(SAMPLE.image(), wiring.registry(Reference.parse(name), Target.host()))
        del registry.requests[:]
        image, remote = read(wiring, name)
        report = inspect(image, name=name, remote=remote)
        base_of(report, wiring, ask=False)
        json.dumps(report.fields())
        assert [(seen.method, seen.path.split("/")[-2]) for seen in registry.requests] == [
            ("GET", "manifests"),
            ("GET", "blobs"),
        ]


def test_the_store_is_asked_first_and_either_can_be_chosen(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        name = f"{registry.host}/acme/app:1"
        local, remote = SAMPLE.image(), App().image()
        push_image(local, wiring.store.place(name))
        push_image(remote, wiring.registry(Reference.parse(name), Target.host()))
        for options, image, is_remote in (
            ({}, local, False),
            ({"local": True}, local, False),
            ({"remote": True}, remote, True),
        ):
            found, told = read(wiring, name, **options)
            assert (found.id, told) == (image.id, is_remote)
        assert read(wiring, f"docker://{name}")[0].id == remote.id
        assert read(wiring, local.id.short)[0].id == local.id
        del registry.requests[:]
        for text, options in (
            (f"store:{registry.host}/acme/other", {}),
            (f"{registry.host}/acme/other", {"local": True}),
            ("0" * 64, {}),
            ("packhorse.local/nothing", {}),
        ):
            with pytest.raises(NotFoundError):
                read(wiring, text, **options)
        assert registry.requests == []
        with pytest.raises(NotFoundError, match="and its registry does not have it either"):
            read(wiring, f"{registry.host}/acme/other")
    with pytest.raises(NetworkError, match="and its registry could not be asked"):
        read(wiring, "localhost:1/x")


def test_what_is_attached_to_it_is_told_where_somebody_asks(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        location = Location.parse(f"docker://{registry.host}/acme/app")
        push_image(SAMPLE.image(), wiring.place(location))
        image = wiring.place(location).read()
        assert image.manifest
        report = inspect(image)
        assert report.fields()["referrers"] is None
        assert not any(line.startswith("attached") for line in report.lines())
        asked = replace(report, attachments=attachments(location, image, wiring))
        assert asked.fields()["referrers"] == [] and "attached    nothing" in asked.lines()
        place = wiring.index_place(location, writes=True)
        bill = attach(place, image.manifest.descriptor, "application/spdx+json")
        signed = attach(place, bill.descriptor, SIGNATURE, number=1)
        attach_by_tag(place, image.manifest.descriptor, "sig")
        asked = replace(report, attachments=attachments(location, image, wiring))
        assert [line for line in asked.lines() if line.startswith("attached")] == [
            f"attached    application/spdx+json  {bill.digest}",
            f"attached    {SIGNATURE}  {signed.digest}",
            f"attached    {SIGNATURE}  sha256-{image.manifest.digest.hex}.sig",
        ]
    with pytest.raises(InputError, match="has one image per name"):
        attachments(Location.parse("store:acme/app"), image, wiring)


def test_what_is_beside_it_in_its_index_is_attached_too(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        location = Location.parse(f"docker://{registry.host}/acme/app")
        push_image(SAMPLE.image(), wiring.place(location))
        image = wiring.place(location).read()
        assert image.manifest
        own = replace(image.manifest.descriptor, target=image.config.target)
        about = {
            "vnd.docker.reference.digest": str(own.digest),
            "vnd.docker.reference.type": "attestation-manifest",
        }
        note = replace(own, target=Target("unknown", "unknown"), annotations=about)
        index = Index.of([own, note])
        registry.put_manifest("acme/app", "latest", index.raw, index.media_type)
        image = wiring.place(location).read()
        asked = replace(inspect(image), attachments=attachments(location, image, wiring))
        assert f"attached    attestation-manifest  {note.digest}" in asked.lines()


def test_the_age_of_the_base_is_its_labels_or_the_stores(wiring: Wiring) -> None:
    made = "2026-03-04T05:06:07Z"
    labelled = inspect(App(labels={"io.buildpacks.base.released": made}).image())
    assert base_of(labelled, wiring, ask=False).created == made
    report = inspect(SAMPLE.image())
    assert base_of(report, wiring, ask=False).created == ""
    push_image(stored_image(*BASE, created=made), wiring.store.place("acme/run"))
    base = base_of(report, wiring, ask=False)
    assert (base.created, base.newer) == (made, "")
    assert any(line.startswith("base        made ") for line in report.with_base(base).lines())


def test_the_run_images_registry_says_that_there_is_a_newer_one(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        run = f"{registry.host}/acme/run"
        old, new = stored_image(*BASE, created="2026-01-01T00:00:00Z"), stored_image(BASE[0])
        new = stored_image(BASE[0], created="2026-02-01T00:00:00Z")
        place = wiring.registry(Reference.parse(run), Target.host())
        digest = push_image(old, place).manifest_digest
        label = {"topLayer": str(Digest.of(BASE[-1])), "reference": f"{run}@{digest}", "image": run}
        report = inspect(App(lifecycle={"runImage": label}).image())
        base = base_of(report, wiring, ask=True)
        assert base.newer == ""
        assert "newer base  none: the run image is still the same" in report.with_base(base).lines()
        assert base_of(report, wiring, ask=True).created == "2026-01-01T00:00:00Z"
        push_image(new, place)
        base = base_of(report, wiring, ask=True)
        assert (base.created, base.newer) == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
        assert "newer base  made" in "\n".join(report.with_base(base).lines())
        assert base_of(report, wiring, ask=False).newer == ""


def test_a_builder_shows_its_buildpacks_order_run_images_and_apis() -> None:
    composite = {
        "api": "0.11",
        "order": [
            {"group": [{"id": "a/x", "version": "2"}, {"id": "a/y", "version": "3", "optional": True}]}
        ],
    }
    image = builder_image(
        tar_of({}),
        run="acme/run",
        launcher=b"",
        mirrors=["mirror.example/run"],
        more={
            "io.buildpacks.buildpack.layers": json.dumps(
                {"foreign/shell": {"2.1.0": composite | {"homepage": "https://x.example"}}}
            ),
            "io.buildpacks.buildpack.order": '[{"group":[{"id":"foreign/shell","optional":true}]}]',
            "io.buildpacks.buildpack.system": '{"pre":{"buildpacks":[{"id":"s/y","version":"1"}]},"post":{}}',
        },
    )
    report = inspect(image, name="acme/builder")
    fields: Any = report.fields()["builder"]
    assert fields["description"] == "made elsewhere" and fields["stack"] == {
        "id": "foreign.stack",
        "mixins": [],
    }
    assert fields["lifecycle"]["version"] == "0.20.11"
    assert fields["lifecycle"]["platform_apis"] == {
        "deprecated": [],
        "supported": ["0.7", "0.12", "0.13", "0.14"],
    }
    assert fields["run_images"] == [{"name": "acme/run", "mirrors": ["mirror.example/run"]}]
    assert fields["detection_order"] == [{"buildpacks": [{"id": "foreign/shell", "optional": True}]}]
    assert fields["system_buildpacks"] == {"pre": [{"id": "s/y", "version": "1"}], "post": []}
    [shell] = fields["buildpacks"]
    assert (shell["id"], shell["version"], shell["api"]) == ("foreign/shell", "2.1.0", "0.11")
    assert shell["order"] == [{"buildpacks": composite["order"][0]["group"]}]  # type: ignore[index]

    lines = list(report.lines())
    for line in (
        "builder     made elsewhere",
        "made by     Another Tool 1",
        "builds as   user 1001:1002",
        "lifecycle   0.20.11",
        "            Platform 0.7, 0.12, 0.13, 0.14",
        "run image   acme/run",
        "  mirror    mirror.example/run",
        "buildpack   foreign/shell@2.1.0  Buildpack API 0.11",
        "            1: a/x@2, a/y@3 (optional)",
        "order       1: foreign/shell (optional)",
        "before all  s/y@1",
    ):
        assert line in lines
    assert not any("it was not built by buildpacks" in line for line in lines)
    assert inspect(SAMPLE.image()).fields()["builder"] is None


@pytest.mark.parametrize("metadata", ["[]", '{"lifecycle":[]}', '{"buildpacks":[1]}', "{"])
def test_a_builder_whose_labels_are_broken_is_refused(metadata: str) -> None:
    labels = {"io.buildpacks.builder.metadata": metadata}
    with pytest.raises(FormatError):
        inspect(stored_image(tar_of({}), labels=labels))
