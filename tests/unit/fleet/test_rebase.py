"""One image onto its run image, where it is: what is read, what is written, what is left alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.app_image import BASE, LIFECYCLE, App
from fakes.small_image import forged_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, RebaseError, UsageError
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult, RebaseState, WantedLabel
from packhorse.fleet.run_images import RunImages
from packhorse.host.locate import PullPolicy
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.rebase import RunImage
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Index, MediaType
from packhorse.testing import FakeRegistry, Fault

LABELS = {"io.buildpacks.base.id": "acme", "io.buildpacks.base.distro.version": "12"}
NEW = (tar_of({"etc/os-release": b"patched\n" * 999}), tar_of({"etc/motd": b"hi\n"}))
PATCHED = stored_image(*NEW, labels=LABELS)
OLD = stored_image(*BASE, labels=LABELS)


def run_of(name: str, *mirrors: str) -> Mapping[str, Any]:
    return {
        "runImage": {
            "topLayer": str(Digest.of(BASE[-1])),
            "reference": "abc",
            "image": name,
            "mirrors": mirrors,
        }
    }


def app_on(name: str, *mirrors: str, labels: Mapping[str, str] = LABELS, **fields: Any) -> Image:
    return App(lifecycle=run_of(name, *mirrors), labels=labels, **fields).image()


def there(wiring: Wiring, image: Image, text: str) -> Location:
    location = Location.parse(text)
    push_image(image, wiring.place(location))
    return location


def ask(
    wiring: Wiring, location: Location, policy: PullPolicy = PullPolicy.ALWAYS, **fields: Any
) -> RebaseResult:
    request = RebaseRequest(location, **{"source": location, **fields})
    # Nothing that an earlier command knew of the registry is known to this one.
    fresh = Wiring(wiring.store)
    return rebase(request, fresh, RunImages(fresh, say=lambda _: None, policy=policy))


def layers(image: Image) -> tuple[Digest | None, ...]:
    return tuple(layer.diff_id for layer in image.layers)


def sent(registry: FakeRegistry) -> int:
    """How many bytes of blobs were uploaded."""
    bodies = [r for r in registry.requests if r.method in ("PUT", "PATCH", "POST") and "/uploads/" in r.path]
    return sum(int(request.headers.get("content-length", "0")) for request in bodies)


def test_in_a_registry_no_layer_is_read_and_those_of_the_base_are_mounted(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    registry.requests.clear()
    outcome = ask(wiring, location)
    asked = [(request.method, request.path.partition("?")[0]) for request in registry.requests]
    assert outcome.state is RebaseState.REBASED and outcome.receipt
    image = wiring.place(location).read()
    assert image.id == outcome.receipt.image_id == outcome.image
    assert layers(image)[:2] == PATCHED.config.diff_ids
    assert sent(registry) == len(image.config.raw)
    assert [path for method, path in asked if method == "GET"] == [
        "/v2/team/app/manifests/latest",
        f"/v2/team/app/blobs/{app_on(run).id}",
        "/v2/acme/run/manifests/latest",
        f"/v2/acme/run/blobs/{PATCHED.id}",
    ]
    mounts = [request for request in registry.find_requests("POST") if "mount=" in request.path]
    assert len(mounts) == 2
    # Two for the layers, three for the config, one whether the tag is still the same; the manifest is last.
    assert asked[-1] == ("PUT", "/v2/team/app/manifests/latest")
    assert len(asked) == 11


def test_a_base_layer_that_the_repository_has_is_not_brought_there(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, stored_image(BASE[0], NEW[1], labels=LABELS), f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    registry.requests.clear()
    ask(wiring, location)
    assert len([request for request in registry.find_requests("POST") if "mount=" in request.path]) == 1


def test_a_base_of_another_registry_is_brought_there_once(wiring: Wiring, registry: FakeRegistry) -> None:
    with FakeRegistry() as far:
        run = f"{far.host}/acme/run"
        there(wiring, PATCHED, f"docker://{run}")
        location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
        registry.requests.clear()
        outcome = ask(wiring, location)
        blobs = [layer.descriptor.size for layer in PATCHED.layers if layer.descriptor]
        image = wiring.place(location).read()
        assert sent(registry) == sum(blobs) + len(image.config.raw)
        far.requests.clear()
        other = there(wiring, app_on(run, app=(tar_of({"w": b"w"}),)), f"docker://{registry.host}/team/app:2")
        registry.requests.clear()
        assert ask(wiring, other).state is RebaseState.REBASED
        assert sent(registry) == len(wiring.place(other).read().config.raw)
        assert [
            request for request in far.find_requests("GET", "/blobs/") if PATCHED.id.hex not in request.path
        ] == []
    assert outcome.after == f"{run}@{digest_of(far, 'acme/run')}"


def digest_of(registry: FakeRegistry, name: str) -> Digest:
    return Digest.of(registry.manifests[name, "latest"][1])


def test_an_image_on_its_run_image_is_left_as_it_is(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    first = ask(wiring, location)
    registry.requests.clear()
    second = ask(wiring, location)
    assert second.state is RebaseState.CURRENT and second.receipt == first.receipt
    assert [request.method for request in registry.requests] == ["GET"] * 4


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("where", ["docker://{}/team/app", "acme/app"])
def test_an_image_whose_base_has_the_layers_of_its_run_image_is_left_as_it_is_whatever_reference_it_has(
    wiring: Wiring, registry: FakeRegistry, where: str, dry_run: bool
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, OLD, f"docker://{run}")
    app = app_on(run)  # its label refers to the run image as "abc"
    location = there(wiring, app, where.format(registry.host))
    assert ask(wiring, location, dry_run=dry_run).state is RebaseState.CURRENT
    assert wiring.place(location).read().id == app.id


def test_an_image_that_was_put_on_a_forged_run_image_is_put_on_the_good_one(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run, app = f"{registry.host}/acme/run", f"docker://{registry.host}/team/app"
    forged = forged_image(NEW[0], tar_of({"etc/os-release": b"evil\n" * 999}), NEW[1], labels=LABELS)
    there(wiring, forged, f"docker://{run}")
    location = there(wiring, app_on(run), app)
    assert ask(wiring, location).state is RebaseState.REBASED
    there(wiring, PATCHED, f"docker://{run}")
    # The config names the layers of the good run image already.
    assert ask(wiring, location, dry_run=True).state is RebaseState.BEHIND
    assert ask(wiring, location).state is RebaseState.REBASED
    assert [b"".join(layer.tar()) for layer in wiring.place(location).read().layers[:2]] == list(NEW)
    assert ask(wiring, location).state is RebaseState.CURRENT


def test_a_copy_of_what_is_current_is_made_all_the_same(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    first = ask(wiring, location)
    copied = Location.parse(f"docker://{registry.host}/team/copy")
    assert ask(wiring, copied, source=location).receipt == first.receipt
    assert wiring.place(copied).read().id == first.image


def test_with_dry_run_nothing_is_written(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    newer = stored_image(*NEW, labels={**LABELS, "io.buildpacks.base.released": "2026"})
    there(wiring, newer, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    registry.requests.clear()
    outcome = ask(wiring, location, dry_run=True)
    assert outcome.state is RebaseState.BEHIND and outcome.layers == (2, 2)
    assert outcome.labels == (("io.buildpacks.base.released", "", "2026"),)
    assert {request.method for request in registry.requests} == {"GET"}
    assert ask(wiring, location).image == outcome.image


def test_in_the_store_the_run_image_is_brought_there(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), "acme/app")
    outcome = ask(wiring, location)
    image = wiring.store.place("acme/app").read()
    assert layers(image)[:2] == PATCHED.config.diff_ids
    assert (
        outcome.after == PATCHED.id.hex == json.loads(image.config.labels[LIFECYCLE])["runImage"]["reference"]
    )
    assert b"".join(image.layers[0].tar()) == NEW[0]


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "docker-archive"])
def test_in_a_file_it_is_rebased_where_it_lies(
    wiring: Wiring, registry: FakeRegistry, kind: str, tmp_path: Path
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"{kind}:{tmp_path / 'image'}")
    outcome = ask(wiring, location)
    image = wiring.place(location).read()
    assert image.id == outcome.image and layers(image)[:2] == PATCHED.config.diff_ids
    assert [b"".join(layer.tar()) for layer in image.layers[:2]] == list(NEW)
    assert ask(wiring, location).state is RebaseState.CURRENT


def test_the_pull_policy_decides_whether_a_registry_is_asked(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), "acme/app")
    with pytest.raises(NotFoundError):
        ask(wiring, location, PullPolicy.NEVER)
    push_image(OLD, wiring.store.place(run))
    registry.requests.clear()
    assert ask(wiring, location, PullPolicy.IF_NOT_PRESENT, dry_run=True).after == OLD.id.hex
    assert registry.requests == []
    assert ask(wiring, location, PullPolicy.ALWAYS).after == PATCHED.id.hex


def test_a_newer_version_of_the_same_run_image_needs_no_force(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}:1.2.4")
    location = there(
        wiring, app_on(f"{run}:1.2.3", f"{run}:1.2.3-mirror"), f"docker://{registry.host}/team/app"
    )
    outcome = ask(wiring, location, run_image=f"{run}:1.2.4")
    assert outcome.notes == (f"{run}:1.2.4 is a newer version of the image's own run image, {run}:1.2.3",)
    forced = ask(
        wiring, there(wiring, app_on(f"{run}:1.2.3"), "acme/x"), run_image=f"{run}:1.2.4", force=True
    )
    said = json.loads(wiring.place(location).read().config.labels[LIFECYCLE])["runImage"]
    assert said["image"] == f"{run}:1.2.4" and "mirrors" not in said
    assert "is another run image" in forced.notes[0]


@pytest.mark.parametrize(
    ("new", "labels"),
    [
        ("run:1.2.2", LABELS),
        ("run:1.2.3-other", LABELS),
        ("run:2.0.0", LABELS),
        ("other:1.2.4", LABELS),
        ("run", LABELS),
        ("run:1.2.4", {**LABELS, "io.buildpacks.base.id": "other"}),
        ("run:1.2.4", {"io.buildpacks.base.distro.version": "12"}),
    ],
)
def test_any_other_run_image_does(
    wiring: Wiring, registry: FakeRegistry, new: str, labels: Mapping[str, str]
) -> None:
    there(wiring, stored_image(*NEW, labels=labels), f"docker://{registry.host}/{new}")
    location = there(wiring, app_on(f"{registry.host}/run:1.2.3"), f"docker://{registry.host}/team/app")
    with pytest.raises(RebaseError, match="another run image"):
        ask(wiring, location, run_image=f"{registry.host}/{new}")


def test_what_the_specification_refuses_is_refused_for_newer_versions_too(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}:1.2.4")
    image = app_on(f"{run}:1.2.3", labels={**LABELS, "io.buildpacks.rebasable": "false"})
    location = there(wiring, image, f"docker://{registry.host}/team/app")
    with pytest.raises(RebaseError, match="not to be rebased"):
        ask(wiring, location, run_image=f"{run}:1.2.4")


def test_an_image_that_no_buildpacks_built_is_said_to_be_one(wiring: Wiring, registry: FakeRegistry) -> None:
    location = there(wiring, stored_image(*BASE), f"docker://{registry.host}/team/app")
    with pytest.raises(FormatError, match="not built by buildpacks"):
        ask(wiring, location)


def test_an_image_that_names_no_run_image_wants_to_be_told_one(wiring: Wiring) -> None:
    location = there(wiring, App(lifecycle={"runImage": {"topLayer": "sha256:0"}}).image(), "acme/app")
    with pytest.raises(InputError, match="does not name its run image"):
        ask(wiring, location)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/manifests/", status=403),
        Fault("PUT", "/manifests/", status=409),
        Fault("PUT", "/uploads/", times=99, status=413),
        Fault("POST", "/uploads/", times=99, status=403),
        Fault("GET", "/acme/run/", times=99, status=404),
    ],
)
def test_whatever_goes_wrong_the_tag_stays_what_it_was(
    wiring: Wiring, registry: FakeRegistry, fault: Fault
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    before = registry.manifests["team/app", "latest"]
    registry.faults.append(fault)
    with pytest.raises((NetworkError, NotFoundError)):
        ask(wiring, location)
    assert registry.manifests["team/app", "latest"] == before
    registry.faults.clear()
    assert ask(wiring, location).state is RebaseState.REBASED


def test_a_run_image_that_nobody_has_is_asked_for_once(wiring: Wiring, registry: FakeRegistry) -> None:
    run_images = RunImages(wiring, say=lambda _: None)
    for number in range(3):
        location = there(
            wiring, app_on(f"{registry.host}/gone"), f"docker://{registry.host}/team/app:{number}"
        )
        with pytest.raises(NotFoundError):
            rebase(RebaseRequest(location, location), wiring, run_images)
    assert len(registry.find_requests("GET", "/v2/gone/")) == 1


def test_only_images_on_the_old_run_image_are_taken(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    assert ask(wiring, location, old_run_image=f"{registry.host}/other").state is RebaseState.SKIPPED
    assert ask(wiring, location, old_run_image=run, dry_run=True).state is RebaseState.BEHIND
    assert ask(wiring, location, old_run_image="abc", dry_run=True).state is RebaseState.BEHIND


LABELLED = {"team": "a=b", "stage": ""}


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        ((), True),
        (("team",), True),
        (("team=a=b",), True),
        (("team=a",), False),
        (("team=",), False),
        (("stage=",), True),
        (("team", "stage", "team=a=b"), True),
        (("team", "owner"), False),
        (("Team",), False),
    ],
)
def test_only_images_that_have_all_labels_are_taken(
    wiring: Wiring, registry: FakeRegistry, wanted: tuple[str, ...], taken: bool
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run, labels=LABELS | LABELLED), f"docker://{registry.host}/team/app")
    outcome = ask(wiring, location, labels=WantedLabel.parse_all(wanted))
    assert outcome.state is (RebaseState.REBASED if taken else RebaseState.SKIPPED)
    assert taken or outcome.notes == (f"it does not have the label {wanted[-1]}",)
    assert taken or not registry.find_requests("GET", "/v2/acme/run/")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (("",), "names no label"),
        (("=a",), "names no label"),
        ((" =a",), "names no label"),
        (("team=a", "team=b"), "no image has team=a and team=b at once"),
    ],
)
def test_labels_that_no_image_can_have_are_an_error(texts: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        WantedLabel.parse_all(texts)


class Interrupted(RunImages):
    """Run images that are looked for while somebody pushes an image of theirs to `location`."""

    def __init__(self, wiring: Wiring, location: Location, pushed: list[Image]) -> None:
        super().__init__(wiring, say=lambda _: None)
        self.location = location
        self.pushed = pushed
        self.other = Wiring(wiring.store)

    def find(self, names: Sequence[str], location: Location, target: Target) -> RunImage:
        if self.pushed:
            push_image(self.pushed.pop(), self.other.place(self.location))
        return super().find(names, location, target)


def others(run: str, count: int) -> list[Image]:
    return [app_on(run, app=(tar_of({"workspace/n": str(number).encode()}),)) for number in range(count)]


def test_what_was_pushed_meanwhile_is_rebased_and_not_lost(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    (pushed,) = others(run, 1)
    rebase(RebaseRequest(location, location), wiring, Interrupted(wiring, location, [pushed]))
    image = wiring.place(location).read()
    assert layers(image) == (*PATCHED.config.diff_ids, *pushed.config.diff_ids[2:])


def test_who_never_finishes_writing_a_tag_is_not_waited_for(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    with pytest.raises(RebaseError, match="was changed while"):
        rebase(RebaseRequest(location, location), wiring, Interrupted(wiring, location, others(run, 9)))


def test_an_index_of_one_image_is_replaced_by_it(wiring: Wiring, registry: FakeRegistry) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    image = wiring.place(location).read()
    assert image.manifest
    index = Index.of([image.manifest.descriptor])
    registry.put_manifest("team/app", "latest", index.raw, index.media_type)
    assert ask(wiring, location).state is RebaseState.REBASED
    assert wiring.place(location).read().manifest != image.manifest


@pytest.mark.parametrize("name", ["docker://{host}/team/app@{digest}", "store:acme/app@{digest}", "{id}"])
def test_what_has_a_digest_for_a_name_cannot_become_another_image(
    wiring: Wiring, registry: FakeRegistry, name: str
) -> None:
    digest = Digest.of(b"x")
    location = Location.parse(name.format(host=registry.host, digest=digest, id=digest.hex))
    with pytest.raises(InputError, match="cannot become another image"):
        ask(wiring, location)


def test_a_run_image_that_no_registry_has_comes_from_the_store(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    name = "packhorse.local/run:acme"
    push_image(PATCHED, wiring.store.place(name))
    location = there(wiring, app_on(name), f"docker://{registry.host}/team/app")
    outcome = ask(wiring, location)
    image = wiring.place(location).read()
    assert layers(image)[:2] == PATCHED.config.diff_ids
    assert outcome.after == PATCHED.id.hex
    assert b"".join(image.layers[0].tar()) == NEW[0]
    assert ask(wiring, location).state is RebaseState.CURRENT


@pytest.mark.parametrize("media_type", [MediaType.DOCKER_MANIFEST, MediaType.OCI_MANIFEST])
def test_images_of_docker_and_of_oci_are_rebased_on_one_another(
    wiring: Wiring, registry: FakeRegistry, media_type: str
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, stored_image(*NEW, labels=LABELS, media_type=media_type), f"docker://{run}")
    location = there(wiring, app_on(run), f"docker://{registry.host}/team/app")
    outcome = ask(wiring, location)
    image = wiring.place(location).read()
    assert image.manifest and image.manifest.media_type == MediaType.OCI_MANIFEST
    assert image.id == outcome.image
    assert [b"".join(layer.tar()) for layer in image.layers[:2]] == list(NEW)


def test_what_a_manifest_notes_of_the_build_is_kept_and_of_the_old_base_is_not(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run = f"{registry.host}/acme/run"
    there(wiring, PATCHED, f"docker://{run}")
    noted = (("dev.packhorse.builder", "acme"), ("org.opencontainers.image.base.name", "old"))
    image = replace(app_on(run), manifest=None, annotations=noted)
    location = there(wiring, image, f"docker://{registry.host}/team/app")
    ask(wiring, location)
    assert wiring.place(location).read().annotations == noted[:1]
