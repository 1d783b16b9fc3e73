"""A name that stands for images of several targets, and what is beside them, onto their run images."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.app_image import BASE, App
from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError
from packhorse.fleet.copy import CopyOptions, copy
from packhorse.fleet.rebase import rebase
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseResult, RebaseState
from packhorse.fleet.run_images import RunImages
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.rebase import RunImage
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Descriptor, Index, Manifest, MediaType
from packhorse.testing import FakeRegistry, Fault

AMD, ARM, S390 = Target("linux", "amd64"), Target("linux", "arm64", "v8"), Target("linux", "s390x")
STATEMENT = b'{"_type": "a statement"}'
NOTES = {"kept": "as it is", "org.opencontainers.image.base.digest": "of the old base"}


def app(run: str, target: Target, text: str = "") -> Image:
    named = {"topLayer": str(Digest.of(BASE[-1])), "reference": "abc", "image": run, "mirrors": []}
    tar = tar_of({"workspace/app": f"{target} {text}".encode()})
    return App(lifecycle={"runImage": named}, app=(tar,), config={"target": target}).image()


def base(target: Target) -> Image:
    return stored_image(tar_of({"etc/os-release": f"patched for {target}".encode()}), target=target)


def index_of(wiring: Wiring, text: str, images: dict[Target, Image], *, media_type: str = "") -> Index:
    """Puts images under one name, with an attestation about the first of them, and notes to keep."""
    sink = wiring.index_place(Location.parse(text), writes=True)
    entries: list[dict[str, Any]] = []
    for target, image in images.items():
        assert image.manifest
        for layer in image.layers:
            assert layer.descriptor and layer.blob
            sink.write_blob(layer.descriptor, layer.blob)
        sink.write_blob(image.manifest.config, lambda raw=image.config.raw: iter([raw]))
        sink.write_document(image.manifest)
        entry = replace(image.manifest.descriptor, target=target, annotations={"of": str(target)})
        entries.append(entry.fields() | {"x-unknown": 1})
    entries[0]["data"] = "of the manifest's bytes"
    entries.append(_attestation(sink, entries[0]["digest"]).fields())
    document = {"schemaVersion": 2, "manifests": entries, "annotations": NOTES, "x-more": [1.5]}
    index = Index.parse(json.dumps(document, indent=1).encode(), media_type)
    sink.set_name(index)
    return index


def _attestation(sink: Any, about: str) -> Descriptor:
    config = b'{"architecture":"unknown","os":"unknown"}'
    blobs = [
        Descriptor(media_type, Digest.of(data), len(data))
        for media_type, data in ((MediaType.OCI_CONFIG, config), ("application/vnd.in-toto+json", STATEMENT))
    ]
    for blob, data in zip(blobs, (config, STATEMENT), strict=True):
        sink.write_blob(blob, lambda data=data: iter([data]))
    manifest = Manifest.of(blobs[0], blobs[1:])
    sink.write_document(manifest)
    note = {"vnd.docker.reference.digest": about}
    return replace(manifest.descriptor, target=Target("unknown", "unknown"), annotations=note)


def ask(wiring: Wiring, text: str, **fields: Any) -> RebaseResult:
    location = Location.parse(text)
    fresh = Wiring(wiring.store)
    request = RebaseRequest(location, **{"source": location, **fields})
    return rebase(request, fresh, RunImages(fresh, say=lambda _: None))


def prepared(wiring: Wiring, registry: FakeRegistry, *targets: Target) -> str:
    """Run images for `targets` under one name."""
    run = f"{registry.host}/acme/run"
    index_of(wiring, f"docker://{run}", {target: base(target) for target in targets})
    return run


def found(wiring: Wiring, text: str) -> Index:
    root = wiring.index_place(Location.parse(text)).root()
    assert isinstance(root, Index)
    return root


@pytest.fixture(params=["docker", "oci"])
def place(request: pytest.FixtureRequest, registry: FakeRegistry, tmp_path: Path) -> Callable[[str], str]:
    """Names in a place where one may stand for several images."""
    if request.param == "docker":
        return lambda name: f"docker://{registry.host}/team/{name}"
    return lambda name: f"oci:{tmp_path}/layout:{name}"


def test_each_image_becomes_what_it_becomes_alone_and_all_else_stays(
    wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]
) -> None:
    run = prepared(wiring, registry, ARM, AMD)
    images = {target: app(run, target) for target in (AMD, ARM)}
    before = index_of(wiring, place("app"), images)
    outcome = ask(wiring, place("app"))
    after = found(wiring, place("app"))
    assert outcome.state is RebaseState.REBASED and outcome.receipt
    assert outcome.receipt.manifest_digest == after.digest
    assert [(target, one.state) for target, one in outcome.members] == [
        (AMD, RebaseState.REBASED),
        (ARM, RebaseState.REBASED),
    ]
    alone = wiring.index_place(Location.parse(place("app")))
    for entry, target in zip(after.manifests, (AMD, ARM), strict=False):
        push_image(images[target], wiring.place(Location.parse(place(target.arch))))
        single = ask(wiring, place(target.arch))
        assert single.receipt and entry.digest == single.receipt.manifest_digest
        assert alone.image(entry).layers[0].diff_id == base(target).config.diff_ids[0]
    old, new = json.loads(before.raw), json.loads(after.raw)
    assert new["manifests"][2] == old["manifests"][2]
    assert new["annotations"] == {"kept": "as it is"} and new["x-more"] == [1.5]
    for one, other in zip(old["manifests"][:2], new["manifests"][:2], strict=True):
        changed = {"digest", "size", "data"}
        assert {key: one[key] for key in one if key not in changed} == {
            key: other[key] for key in other if key not in changed
        }
        assert "data" not in other


def test_nothing_is_done_twice(wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]) -> None:
    run = prepared(wiring, registry, AMD, ARM)
    index_of(wiring, place("app"), {target: app(run, target) for target in (AMD, ARM)})
    ask(wiring, place("app"))
    before = found(wiring, place("app"))
    outcome = ask(wiring, place("app"))
    assert outcome.state is RebaseState.CURRENT and outcome.receipt
    assert outcome.receipt.manifest_digest == before.digest == found(wiring, place("app")).digest


def test_a_check_tells_of_each_image_and_writes_nothing(
    wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]
) -> None:
    run = prepared(wiring, registry, AMD, ARM)
    before = index_of(wiring, place("app"), {target: app(run, target) for target in (AMD, ARM)})
    registry.requests.clear()
    outcome = ask(wiring, place("app"), dry_run=True)
    assert [one.state for _, one in outcome.members] == [RebaseState.BEHIND] * 2
    assert found(wiring, place("app")).raw == before.raw
    assert {each.method for each in registry.requests} <= {"GET", "HEAD"}


def test_where_the_run_image_lacks_a_target_nothing_moves(
    wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]
) -> None:
    run = prepared(wiring, registry, AMD)
    before = index_of(wiring, place("app"), {target: app(run, target) for target in (AMD, ARM, S390)})
    registry.requests.clear()
    with pytest.raises(NotFoundError) as caught:
        ask(wiring, place("app"))
    assert "its images for linux/arm64/v8, linux/s390x cannot be rebased" in caught.value.what
    assert f"linux/s390x: {run}:latest has no image for linux/s390x" in caught.value.why
    assert found(wiring, place("app")).raw == before.raw
    assert {each.method for each in registry.requests} <= {"GET", "HEAD"}


def test_images_for_other_machines_alone_are_rebased_too(wiring: Wiring, registry: FakeRegistry) -> None:
    foreign = [target for target in (AMD, ARM, S390) if target.arch != Target.host().arch][:2]
    run = prepared(wiring, registry, *foreign)
    name = f"docker://{registry.host}/team/app"
    index_of(wiring, name, {target: app(run, target) for target in foreign})
    assert ask(wiring, name).state is RebaseState.REBASED


def test_what_is_beside_them_comes_along_to_another_name(
    wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]
) -> None:
    run = prepared(wiring, registry, AMD, ARM)
    before = index_of(wiring, place("app"), {target: app(run, target) for target in (AMD, ARM)})
    new = f"docker://{registry.host}/elsewhere/app"
    ask(wiring, new, source=Location.parse(place("app")))
    assert found(wiring, place("app")).raw == before.raw
    assert [entry.digest for entry in found(wiring, new).manifests[2:]] == [before.manifests[2].digest]
    source = wiring.index_place(Location.parse(new))
    document = source.member(before.manifests[2])
    assert isinstance(document, Manifest)
    assert b"".join(source.blob(document.layers[0])) == STATEMENT


def test_what_is_beside_them_need_not_say_a_target(wiring: Wiring, registry: FakeRegistry) -> None:
    run, name = prepared(wiring, registry, AMD), f"docker://{registry.host}/team/app"
    before = index_of(wiring, name, {AMD: app(run, AMD)})
    entries = [before.manifests[0], replace(before.manifests[1], target=None)]
    wiring.index_place(Location.parse(name), writes=True).set_name(Index.of(entries))
    assert ask(wiring, name).state is RebaseState.REBASED
    assert found(wiring, name).manifests[1] == entries[1]


def test_only_those_on_the_old_run_image_are_taken(wiring: Wiring, registry: FakeRegistry) -> None:
    run, name = prepared(wiring, registry, AMD, ARM), f"docker://{registry.host}/team/app"
    before = index_of(wiring, name, {AMD: app(run, AMD), ARM: app(f"{registry.host}/other", ARM)})
    outcome = ask(wiring, name, old_run_image=run)
    assert [one.state for _, one in outcome.members] == [RebaseState.REBASED, RebaseState.SKIPPED]
    assert [entry.digest for entry in found(wiring, name).manifests[1:]] == [
        entry.digest for entry in before.manifests[1:]
    ]
    assert ask(wiring, name, old_run_image="nobody/has").state is RebaseState.SKIPPED


def test_what_was_pushed_meanwhile_is_not_lost(wiring: Wiring, registry: FakeRegistry) -> None:
    run, name = prepared(wiring, registry, AMD, ARM), f"docker://{registry.host}/team/app"
    index_of(wiring, name, {target: app(run, target) for target in (AMD, ARM)})
    pushed = {target: app(run, target, "newer") for target in (AMD, ARM)}

    class Interrupted(RunImages):
        def find(self, names: Sequence[str], location: Location, target: Target) -> RunImage:
            if pushed:
                index_of(Wiring(wiring.store), name, dict(pushed))
                pushed.clear()
            return super().find(names, location, target)

    newer, location = list(pushed.values()), Location.parse(name)
    rebase(RebaseRequest(location, location), wiring, Interrupted(wiring, say=lambda _: None))
    source = wiring.index_place(location)
    tops = [source.image(entry).layers[1].diff_id for entry in found(wiring, name).manifests[:2]]
    assert tops == [image.layers[2].diff_id for image in newer]


@pytest.mark.parametrize("refused", ["/team/app/manifests/latest", "/team/app/manifests/sha256"])
def test_a_registry_that_refuses_leaves_the_name_as_it_is(
    wiring: Wiring, registry: FakeRegistry, refused: str
) -> None:
    run, name = prepared(wiring, registry, AMD, ARM), f"docker://{registry.host}/team/app"
    before = index_of(wiring, name, {target: app(run, target) for target in (AMD, ARM)})
    registry.faults.append(Fault("PUT", refused, status=403))
    with pytest.raises(NetworkError):
        ask(wiring, name)
    assert found(wiring, name).raw == before.raw


def test_a_list_of_dockers_becomes_an_index_of_what_is_in_it_then(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    run, name = prepared(wiring, registry, AMD, ARM), f"docker://{registry.host}/team/app"
    images = {target: app(run, target) for target in (AMD, ARM)}
    index_of(wiring, name, images, media_type=MediaType.DOCKER_INDEX)
    ask(wiring, name)
    after = found(wiring, name)
    assert after.media_type == MediaType.OCI_INDEX
    assert {entry.media_type for entry in after.manifests} == {MediaType.OCI_MANIFEST}


def test_an_index_in_an_index_is_refused(wiring: Wiring, registry: FakeRegistry) -> None:
    run, name = prepared(wiring, registry, AMD, ARM), f"docker://{registry.host}/team/app"
    inner = index_of(wiring, name, {target: app(run, target) for target in (AMD, ARM)})
    entry = Descriptor(inner.media_type or MediaType.OCI_INDEX, inner.digest, len(inner.raw), Target.host())
    wiring.index_place(Location.parse(name), writes=True).set_name(Index.of([entry, *inner.manifests]))
    with pytest.raises(FormatError, match="has another index in it"):
        ask(wiring, name)


def test_an_archive_whose_name_stands_for_several_is_left_alone(
    wiring: Wiring, registry: FakeRegistry, tmp_path: Path
) -> None:
    run = prepared(wiring, registry, AMD, ARM)
    index_of(wiring, f"oci:{tmp_path}/x:app", {target: app(run, target) for target in (AMD, ARM)})
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "x", ".")
    before = (tmp_path / "x.tar").read_bytes()
    with pytest.raises(InputError, match="stands for several images"):
        ask(wiring, f"oci-archive:{tmp_path}/x.tar:app")
    assert (tmp_path / "x.tar").read_bytes() == before
    copied = copy(
        wiring,
        Location.parse(f"oci-archive:{tmp_path}/x.tar:app"),
        Location.parse(f"oci:{tmp_path}/y"),
        CopyOptions(all_images=True),
    )
    assert copied == found(wiring, f"oci:{tmp_path}/y").digest


def test_an_attestation_stays_beside_an_image_that_says_no_target(
    wiring: Wiring, registry: FakeRegistry, place: Callable[[str], str]
) -> None:
    run = prepared(wiring, registry, AMD)
    index_of(wiring, place("app"), {AMD: app(run, AMD)})
    entries = [entry.fields() for entry in found(wiring, place("app")).manifests]
    del entries[0]["platform"]
    document = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    wiring.index_place(Location.parse(place("app")), writes=True).set_name(Index.parse(document))
    assert ask(wiring, place("app")).state is RebaseState.REBASED
    after = found(wiring, place("app"))
    assert [entry.target for entry in after.manifests] == [None, Target("unknown", "unknown")]
    assert after.manifests[1].digest == Digest.parse(entries[1]["digest"])
