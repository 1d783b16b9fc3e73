"""What differs between two images, told by whose layers they are."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from fakes.app_image import BASE, App
from fakes.small_image import stored_image, tar_of
from packhorse.base.target import Target
from packhorse.cli.document import serialize
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Reference
from packhorse.report.diff import Change, Difference, compared_image, diff
from packhorse.report.diff_document import details, fields
from packhorse.sdk.sbom import Bill, Component
from packhorse.testing import FakeRegistry

NODE, MODULES = tar_of({"layers/node/bin/node": b"node"}), tar_of({"layers/npm/x": b"x"})
SAMPLE = App(layers={"acme/node:node": NODE, "acme/npm:modules": MODULES})


def _diff(before: Image, after: Image, *, files: bool = True) -> Difference:
    return diff(compared_image("a", before), compared_image("b", after), files=files)


def _tar(*members: tuple[str, dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, settings in members:
            info = tarfile.TarInfo(name)
            data = settings.pop("data", b"")
            info.size = len(data)
            for key, value in settings.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _lines(found: Difference) -> list[str]:
    return [
        f"{file.change} {file.path} {', '.join(details(file))}"
        for group in found.changed_groups
        for file in group.files or ()
    ]


def test_equal_images_are_told_without_reading_a_layer(wiring: Wiring) -> None:
    with FakeRegistry() as registry:
        place = wiring.registry(Reference.parse(f"{registry.host}/acme/app"), Target.host())
        push_image(SAMPLE.image(), place)
        read = place.read()
        del registry.requests[:]
        found = _diff(read, SAMPLE.image())
        assert found.is_same and found.groups == () and registry.requests == []
        assert found.headline == f"the same image: {SAMPLE.image().id}"


def test_only_layers_that_differ_are_read(wiring: Wiring) -> None:
    newer = replace(SAMPLE, app=(tar_of({"workspace/server.js": b"other"}),)).image()
    with FakeRegistry() as registry:
        place = wiring.registry(Reference.parse(f"{registry.host}/acme/app"), Target.host())
        push_image(newer, place)
        read = place.read()
        del registry.requests[:]
        found = _diff(SAMPLE.image(), read)
        assert found.headline == "only the application changed: 6 of 7 layers are the same"
        assert _lines(found) == ["changed workspace/server.js size 8 → 5"]
        app = newer.layers[4].descriptor  # above the base's two and the buildpacks'
        assert app and [seen.path.rpartition("/")[2] for seen in registry.requests] == [str(app.digest)]
        del registry.requests[:]
        shallow = _diff(SAMPLE.image(), read, files=False)
        assert shallow.headline == found.headline and registry.requests == []
        assert all(group.files is None for group in shallow.groups)


def test_a_rebase_is_told_in_one_line() -> None:
    newer = replace(
        SAMPLE,
        base=(BASE[0], tar_of({"etc/motd": b"good evening\n"}), tar_of({"etc/new": b""})),
        labels={"io.buildpacks.base.released": "2026-01-01T00:00:00Z"},
    )
    found = _diff(SAMPLE.image(), newer.image())
    assert found.headline == "only the base changed: 6 of 8 layers are the same"
    assert _lines(found) == ["changed etc/motd size 6 → 13", "added etc/new 0 bytes, -rwxr-xr-x"]
    assert [group.below for group in found.groups] == [1, 0, 0, 0, 0, 0]
    with_setting = replace(newer, config={"env": ["CNB_PLATFORM_API=0.15", "A=1"]}).image()
    assert _diff(SAMPLE.image(), with_setting).headline.startswith("the base and the config changed")


def test_the_layers_of_a_base_are_compared_as_one() -> None:
    before = replace(SAMPLE, base=(tar_of({"a": b"1", "b": b"1", "d/x": b""}), tar_of({"a": b"2"})))
    after = replace(SAMPLE, base=(tar_of({"a": b"2"}), tar_of({"b": b"1", ".wh.d": b""})))
    assert _lines(_diff(before.image(), after.image())) == ["removed d/x 0 bytes, -rwxr-xr-x"]


def test_a_base_with_a_layer_more_has_its_files_changed_and_removed_and_not_only_added() -> None:
    old = tar_of({"kept": b"1", "bin/sh": b"1", "d/x": b"1", "d/y": b"", "e/x": b"", "f": b"12", "g/h": b""})
    new = _tar(
        ("bin/sh", {"data": b"22", "mode": 0o755}),
        ("kept", {"data": b"1", "mode": 0o755}),
        ("new", {"mode": 0o755}),
        (".wh.d", {}),
        ("e/.wh..wh..opq", {}),
        ("e/z", {"mode": 0o755}),
        (".wh.nothing", {}),
        ("g", {"mode": 0o755}),
    )
    before, after = replace(SAMPLE, base=(BASE[0], old)), replace(SAMPLE, base=(BASE[0], old, new))
    removed = "0 bytes, -rwxr-xr-x"
    found = _diff(before.image(), after.image())
    assert found.groups[0].below == 2
    assert _lines(found) == [
        "changed bin/sh size 1 → 2",
        "removed d/x 1 byte, -rwxr-xr-x",
        f"removed d/y {removed}",
        f"removed e/x {removed}",
        f"added e/z {removed}",
        f"added g {removed}",
        f"removed g/h {removed}",
        f"added new {removed}",
    ]
    assert [line.partition(" ")[0] for line in _lines(_diff(after.image(), before.image()))] == [
        *("changed", "added", "added", "added", "removed", "removed", "added", "removed"),
    ]


def test_a_slice_of_an_application_tells_what_it_hides_of_the_base() -> None:
    older = replace(SAMPLE, app=(tar_of({"workspace/a": b""}), tar_of({"workspace/b": b""})))
    newer = replace(older, app=(older.app[0], tar_of({"etc/.wh.motd": b"", "workspace/.wh.a": b""})))
    assert _lines(_diff(older.image(), newer.image())) == [
        "added etc/motd hides what layers below have",
        "removed workspace/a 0 bytes, -rwxr-xr-x",
        "removed workspace/b 0 bytes, -rwxr-xr-x",
    ]


def _status(**versions: str) -> bytes:
    stanza = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\n\n"
    return "".join(stanza.format(name, version) for name, version in versions.items()).encode()


def test_packages_of_a_base_are_told_with_their_versions() -> None:
    old, new = _status(libc="2.36-9", gone="1", same="1"), _status(libc="2.36-10", new="1:2~3", same="1")
    before = replace(SAMPLE, base=(BASE[0], tar_of({"var/lib/dpkg/status": old})))
    for base in (
        (BASE[0], tar_of({"var/lib/dpkg/status": new})),
        (*before.base, tar_of({"var/lib/dpkg/status": new})),
    ):
        found = _diff(before.image(), replace(SAMPLE, base=base).image())
        assert [(one.name, one.before, one.after) for one in found.groups[0].packages] == [
            ("gone", "1", None),
            ("libc", "2.36-9", "2.36-10"),
            ("new", None, "1:2~3"),
        ]
        (group,) = json.loads(serialize(fields(found), "json"))["layers"][:1]
        assert group["packages"][1] == {"name": "libc", "before": "2.36-9", "after": "2.36-10"}


def test_packages_without_dpkg_are_known_by_a_file_each() -> None:
    names = ("var/lib/dpkg/status.d/libc", "var/lib/dpkg/status.d/tzdata")
    whole = tar_of({name: _status(**{name.rpartition("/")[2]: "1"}) for name in names})
    above = tar_of({names[0]: _status(libc="2"), "var/lib/dpkg/status.d/.wh.tzdata": b""})
    before, after = replace(SAMPLE, base=(BASE[0], whole)), replace(SAMPLE, base=(BASE[0], whole, above))
    (group,) = _diff(before.image(), after.image()).changed_groups
    assert [(one.name, one.before, one.after) for one in group.packages] == [
        ("libc", "1", "2"),
        ("tzdata", "1", None),
    ]


def test_packages_of_buildpacks_are_told_by_their_bills() -> None:
    def app(*parts: tuple[str, str]) -> App:
        bill = Bill(tuple(Component(name, version, f"pkg:npm/{name}@{version}") for name, version in parts))
        folder = "layers/sbom/launch/acme_npm"
        files = {f"{folder}/sbom.cdx.json": bill.cyclonedx(), f"{folder}/sbom.spdx.json": bill.spdx()}
        return replace(SAMPLE, sbom=tar_of({**files, "layers/sbom/launch/bad/sbom.cdx.json": b"{"}))

    before, after = (
        app(("ms", "1"), ("ms", "2"), ("gone", "1"), ("same", "1")),
        app(("ms", "2"), ("same", "1")),
    )
    (group,) = _diff(before.image(), after.image()).changed_groups
    assert [(one.name, one.before, one.after) for one in group.packages] == [
        ("gone", "1", None),
        ("ms", "1, 2", "2"),
    ]


def test_each_layer_of_a_buildpack_is_compared_with_its_own() -> None:
    newer = replace(
        SAMPLE,
        layers={
            "acme/npm:modules": tar_of({"layers/npm/x": b"x", "layers/npm/y": b""}),
            "acme/jvm:jre": tar_of({"layers/jvm/java": b"j"}),
        },
    )
    found = _diff(SAMPLE.image(), newer.image())
    assert [(group.title, group.change) for group in found.changed_groups] == [
        ("acme/node:node", Change.REMOVED),
        ("acme/npm:modules", Change.CHANGED),
        ("acme/jvm:jre", Change.ADDED),
    ]
    assert found.headline.startswith("acme/node, acme/npm, acme/jvm and the config changed")
    assert _lines(found) == [
        "removed layers/node/bin/node 4 bytes, -rwxr-xr-x",
        "added layers/npm/y 0 bytes, -rwxr-xr-x",
        "added layers/jvm/java 1 byte, -rwxr-xr-x",
    ]


def test_a_file_is_told_in_all_that_differs() -> None:
    before = _tar(
        ("x/content", {"data": b"abc"}),
        ("x/kind", {"data": b"abc"}),
        ("x/link", {"type": tarfile.SYMTYPE, "linkname": "a"}),
        ("x/mode", {"mode": 0o644}),
        ("x/owner", {"uid": 1}),
        ("x/same", {"data": b"s"}),
        ("x/time", {"mtime": 315532801}),
    )
    after = _tar(
        ("x/content", {"data": b"abd"}),
        ("x/kind", {"type": tarfile.DIRTYPE}),
        ("x/link", {"type": tarfile.SYMTYPE, "linkname": "b"}),
        ("x/mode", {"mode": 0o4755}),
        ("x/owner", {"uid": 0, "gid": 7}),
        ("x/same", {"data": b"s"}),
        ("x/time", {"mtime": 0}),
    )
    found = _diff(replace(SAMPLE, app=(before,)).image(), replace(SAMPLE, app=(after,)).image())
    assert _lines(found) == [
        "changed x/content content",
        "changed x/kind file → directory",
        "changed x/link link a → b",
        "changed x/mode mode 0644 → 4755",
        "changed x/owner owner 1:0 → 0:7",
        "changed x/time time 1980-01-01T00:00:01Z → 1970-01-01T00:00:00Z",
    ]


def test_tars_that_differ_in_order_alone_have_no_files_that_differ() -> None:
    one, other = (
        replace(SAMPLE, app=(tar_of(files),)) for files in ({"a": b"", "b": b""}, {"b": b"", "a": b""})
    )
    found = _diff(one.image(), other.image())
    assert [group.files for group in found.changed_groups] == [()]


def test_a_run_image_is_the_base_of_its_app() -> None:
    found = _diff(stored_image(*BASE), SAMPLE.image())
    assert found.groups[0].part == "base" and found.groups[0].change is Change.SAME
    assert all(group.change is Change.ADDED for group in found.groups[1:])


def test_images_of_another_origin_are_compared_layer_by_layer() -> None:
    found = _diff(stored_image(BASE[0], NODE), stored_image(BASE[0], MODULES))
    assert found.headline == "only the layers changed: 1 of 2 layers are the same"
    assert _lines(found) == [
        "removed layers/node/bin/node 4 bytes, -rwxr-xr-x",
        "added layers/npm/x 1 byte, -rwxr-xr-x",
    ]


def test_values_of_the_config_have_paths_into_labels() -> None:
    before, after = (
        replace(
            SAMPLE,
            config={"env": env, "user": user, "entrypoint": ["/x"]},
            labels={"deep": json.dumps({"list": [{"id": "a", "v": version}, {"id": "b"}]}), "text": text},
        ).image()
        for env, user, version, text in ((["A=1", "B=2"], "", 1, "{x"), (["B=2", "A=3"], "7", 2, "{y"))
    )
    found = {value.path: (value.before, value.after) for value in _diff(before, after).values}
    assert found == {
        "User": (None, "7"),
        "env.A": ("1", "3"),
        "labels.deep.list[a].v": (1, 2),
        "labels.text": ("{x", "{y"),
    }
    assert _diff(before, after).headline.startswith("only the config changed: 7 of 7 layers")


@pytest.mark.parametrize("depth", [40, 60, 300, 900, 100_000])
def test_labels_may_be_nested_as_deep_as_they_like(depth: int) -> None:
    before, after = (
        replace(SAMPLE, labels={"deep": f"{'[' * depth}{number}{']' * depth}"}).image() for number in (1, 2)
    )
    (value,) = _diff(before, after).values
    assert value.path.startswith("labels.deep") and value.before != value.after
    json.loads(serialize(fields(_diff(before, after)), "json"))


def test_a_file_may_differ_in_nothing_but_extended_attributes() -> None:
    capability = {"SCHILY.xattr.security.capability": "\x01\x00", "SCHILY.xattr.user.same": "x"}
    before = _tar(("ping", {"data": b"x", "pax_headers": {"SCHILY.xattr.user.same": "x"}}))
    after = _tar(("ping", {"data": b"x", "pax_headers": capability}))
    found = _diff(replace(SAMPLE, app=(before,)).image(), replace(SAMPLE, app=(after,)).image())
    assert _lines(found) == ["changed ping attribute security.capability added"]
    assert _lines(_diff(found.after.image, found.before.image)) == [
        "changed ping attribute security.capability removed"
    ]
    told = json.loads(serialize(fields(found), "json"))
    (file,) = next(group["files"] for group in told["layers"] if group["part"] == "app")
    assert file["what"] == ["attributes"]
    assert file["after"]["attributes"] == {"security.capability": "0100", "user.same": "78"}


def test_programs_get_all_of_it() -> None:
    newer = replace(SAMPLE, app=(tar_of({"workspace/x": b""}),), labels={"a": "b"})
    told = json.loads(serialize(fields(_diff(SAMPLE.image(), newer.image())), "json"))
    assert told["same"] is False and told["summary"].startswith("the application and the config changed")
    app = next(group for group in told["layers"] if group["part"] == "app")
    assert [(file["path"], file["change"]) for file in app["files"]] == [
        ("/workspace/server.js", "removed"),
        ("/workspace/x", "added"),
    ]
    assert app["files"][1]["after"]["mode"] == "0755" and app["files"][1]["before"] is None
    told_of = {value["path"]: value["follows_from_layers"] for value in told["config"]}
    assert told_of["labels.a"] is False
    assert told_of["labels[io.buildpacks.lifecycle.metadata].app[0].sha"] is True


def test_a_size_that_nobody_says_is_learnt_by_reading() -> None:
    def unsaid(app: App) -> Image:
        image = app.image()
        layers = tuple(replace(layer, descriptor=None, blob=None) for layer in image.layers)
        return replace(image, layers=layers, manifest=None)

    newer = replace(SAMPLE, app=(tar_of({"workspace/server.js": b"other"}),))
    told = fields(_diff(unsaid(SAMPLE), unsaid(newer)))
    sizes = {group["part"]: [layer["size"] for layer in group["after"]] for group in told["layers"]}
    assert sizes["app"] == [10240] and sizes["base"] == [None, None] and told["a"]["size"] is None
