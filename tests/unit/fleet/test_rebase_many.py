"""Many images at once: which, in what order, and what one that fails does to the others."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.app_image import App
from fakes.small_image import stored_image, tar_of
from packhorse.base.dataclass import replace
from packhorse.base.target import Target
from packhorse.errors import InputError, NetworkError, NotFoundError
from packhorse.fleet.rebase_many import RebaseRow, rebase_many
from packhorse.fleet.rebase_plan import RebaseRequest, RebaseState
from packhorse.fleet.run_images import RunImages
from packhorse.fleet.selection import list_images, parse_list, parse_location
from packhorse.host.wiring import Wiring
from packhorse.oci.place import Image, push_image
from packhorse.oci.reference import Location, LocationKind
from packhorse.oci.types import Manifest, MediaType
from packhorse.testing import FakeRegistry, Fault

NEW = stored_image(tar_of({"etc/os-release": b"patched\n"}))


@pytest.fixture
def registry(wiring: Wiring) -> Iterator[FakeRegistry]:
    """With a run image, and a dozen images on an older one."""
    with FakeRegistry() as registry:
        push_image(NEW, wiring.place(at(registry, "acme/run")))
        image = app(registry)
        for number in range(12):
            push_image(image, wiring.place(at(registry, f"team/app{number:02}")))
        registry.requests.clear()
        yield registry


def app(registry: FakeRegistry, run: str = "acme/run") -> Image:
    plain = App()
    return App(
        lifecycle={
            "runImage": plain._lifecycle()["runImage"] | {"image": f"{registry.host}/{run}", "mirrors": []}
        }
    ).image()


def at(registry: FakeRegistry, name: str) -> Location:
    return Location(LocationKind.REGISTRY, "", f"{registry.host}/{name}")


def ask(wiring: Wiring, locations: Iterator[Location] | list[Location], **fields: bool) -> list[RebaseRow]:
    fresh = Wiring(wiring.store)
    requests = (RebaseRequest(location, location, **fields) for location in locations)
    return list(rebase_many(requests, fresh, RunImages(fresh, say=lambda _: None)))


def states(rows: list[RebaseRow]) -> Counter[str]:
    return Counter(row.outcome.state if row.outcome else "failed" for row in rows)


def test_all_are_rebased_and_told_in_their_order(wiring: Wiring, registry: FakeRegistry) -> None:
    found = list(list_images(wiring, f"{registry.host}/team/"))
    rows = ask(wiring, found)
    assert [row.request.location for row in rows] == found and len(found) == 12
    assert states(rows) == {RebaseState.REBASED: 12}
    assert (
        len(registry.find_requests("GET", "/v2/acme/run/manifests/")) == 1
    )  # the run image is read once for all


def test_a_second_run_passes_over_those_that_are_done(wiring: Wiring, registry: FakeRegistry) -> None:
    found = list(list_images(wiring, f"{registry.host}/team/"))
    ask(wiring, found[:5])
    assert states(ask(wiring, found)) == {RebaseState.CURRENT: 5, RebaseState.REBASED: 7}
    registry.requests.clear()
    assert states(ask(wiring, found)) == {RebaseState.CURRENT: 12}
    assert {request.method for request in registry.requests} == {"GET"}


def test_one_that_fails_stops_no_other(wiring: Wiring, registry: FakeRegistry) -> None:
    registry.faults.append(Fault("PUT", "/team/app03/manifests/", status=403))
    rows = ask(wiring, [*list_images(wiring, f"{registry.host}/team/"), at(registry, "gone")])
    assert states(rows) == {RebaseState.REBASED: 11, "failed": 2}
    assert isinstance(rows[3].error, NetworkError) and isinstance(rows[-1].error, NotFoundError)


def test_of_a_list_what_no_buildpacks_built_is_passed_over(wiring: Wiring, registry: FakeRegistry) -> None:
    push_image(stored_image(tar_of({"x": b"x"})), wiring.place(at(registry, "team/other")))
    registry.put_manifest("team/odd", "latest", b'{"schemaVersion": 2, "layers": [], "config": {}}', "")
    found = list(list_images(wiring, f"{registry.host}/team/"))
    assert states(ask(wiring, found, is_listed=True)) == {RebaseState.REBASED: 12, RebaseState.SKIPPED: 2}
    assert states(ask(wiring, found)) == {RebaseState.CURRENT: 12, "failed": 2}


def test_images_in_files_and_in_the_store_are_taken_one_after_the_other(
    wiring: Wiring, registry: FakeRegistry, tmp_path: Path
) -> None:
    places = [Location(LocationKind.OCI, str(tmp_path / "layout"), str(number)) for number in range(5)]
    places += [Location(LocationKind.STORE, "", f"acme/app{number}") for number in range(5)]
    for place in places:
        push_image(app(registry), wiring.place(place))
    assert states(ask(wiring, places)) == {RebaseState.REBASED: 10}
    ids = {wiring.place(place).read().id for place in places}
    assert len(ids) == 1


def test_images_of_a_list_are_taken_as_they_are_needed(wiring: Wiring, registry: FakeRegistry) -> None:
    taken = 0

    def names() -> Iterator[RebaseRequest]:
        nonlocal taken
        for number in range(400):
            taken += 1
            location = at(registry, f"team/app{number % 12:02}")
            yield RebaseRequest(location, location, dry_run=True)

    rows = rebase_many(names(), wiring, RunImages(wiring, say=lambda _: None), jobs=2)
    assert next(rows).outcome
    assert taken < 20
    rows.close()


def test_a_list_that_breaks_off_is_an_error_after_what_was_begun(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    def names() -> Iterator[RebaseRequest]:
        for number in range(3):
            location = at(registry, f"team/app{number:02}")
            yield RebaseRequest(location, location)
        raise NetworkError("the list broke off", why="a test wants it so")

    rows: list[RebaseRow] = []
    with pytest.raises(NetworkError, match="broke off"):
        rows.extend(rebase_many(names(), wiring, RunImages(wiring, say=lambda _: None)))
    assert states(rows) == {RebaseState.REBASED: 3}


def test_nothing_is_left_running_when_the_rows_are_not_wanted_any_more(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    requests = (RebaseRequest(place, place) for place in list_images(wiring, f"{registry.host}/team/"))
    rows = rebase_many(requests, wiring, RunImages(wiring, say=lambda _: None))
    next(rows)
    rows.close()
    for thread in threading.enumerate():
        if thread.name == "rebase":
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.system
def test_memory_does_not_grow_with_the_number_of_images(wiring: Wiring, registry: FakeRegistry) -> None:
    places = list(list_images(wiring, f"{registry.host}/team/"))
    run_images = RunImages(wiring, say=lambda _: None)

    def pass_over(count: int) -> int:
        requests = (RebaseRequest(places[n % 12], places[n % 12], dry_run=True) for n in range(count))
        for _ in rebase_many(requests, wiring, run_images):
            registry.requests.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        pass_over(50)
        before = pass_over(50)
        assert pass_over(300) - before < 200_000
    finally:
        tracemalloc.stop()


def test_a_repository_is_named_without_a_slash_and_a_beginning_with_one(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    for tag in ("2", f"sha256-{'0' * 64}", f"sha256-{'0' * 64}.sig"):
        push_image(app(registry), wiring.place(at(registry, f"team/app01:{tag}")))
    names = [place.name.partition("/")[2] for place in list_images(wiring, f"{registry.host}/team/app01")]
    assert names == ["team/app01:2", "team/app01:latest"]
    assert len(list(list_images(wiring, f"docker://{registry.host}/team/"))) == 13
    assert len(list(list_images(wiring, f"{registry.host}/"))) == 14  # the run image too
    assert list(list_images(wiring, f"{registry.host}/tea/")) == []
    with pytest.raises(NotFoundError):
        list(list_images(wiring, f"{registry.host}/team"))


@pytest.mark.parametrize("scope", ["x/y:1", "x y/", "", "/", "a.example/Bad/", f"a/b@sha256:{'0' * 64}"])
def test_what_names_no_images_of_a_registry_is_said(wiring: Wiring, scope: str) -> None:
    with pytest.raises(InputError, match="not images of a registry"):
        list(list_images(wiring, scope))


@pytest.mark.parametrize("scope", ["registry.example", "registry.example:5000", "docker://localhost:5000"])
def test_a_registry_without_a_slash_is_not_taken_for_an_image_of_docker_hub(
    wiring: Wiring, scope: str
) -> None:
    with pytest.raises(InputError) as raised:
        list(list_images(wiring, scope))
    assert f"write {scope.removeprefix('docker://')}/ for all" in raised.value.fix


def test_a_password_before_a_registry_is_not_shown(wiring: Wiring) -> None:
    with pytest.raises(InputError, match=r"'@h\.example/a/'") as raised:
        list(list_images(wiring, "https://me:hunter2@h.example/a/"))
    assert "hunter2" not in str(raised.value)


def test_every_wrong_line_of_a_list_is_told_at_once() -> None:
    lines = ["# images", "", "acme/app", "  docker://a.example/b:1  ", "No Name", "oci:"]
    with pytest.raises(InputError) as raised:
        parse_list(lines, where="list", publish=False)
    assert [issue.partition(" ")[0] for issue in raised.value.issues] == ["list:5:", "list:6:"]
    assert [str(place) for place in parse_list(lines[:4], where="list", publish=True)] == [
        "docker://acme/app",
        "docker://a.example/b:1",
    ]


def test_what_lies_in_a_file_is_in_no_registry() -> None:
    for text in ("oci:/x", "store:acme/app"):
        with pytest.raises(InputError, match="not in a registry"):
            parse_location(text, publish=True)


def test_tags_of_one_repository_bring_what_they_share_once(wiring: Wiring, registry: FakeRegistry) -> None:
    places = [at(registry, f"team/app00:{number}") for number in range(9)]
    for place in places:
        push_image(app(registry), wiring.place(place))
    registry.requests.clear()
    registry.faults.append(Fault("POST", "/uploads/", times=9, delay=0.1))
    assert states(ask(wiring, places)) == {RebaseState.REBASED: 9}
    assert len(registry.find_requests("POST", "mount=")) == 1
    assert len(registry.find_requests("PUT", "/uploads/")) == 1  # the config is the same


def test_a_manifest_is_put_again_whose_blobs_are_just_being_brought(
    wiring: Wiring, registry: FakeRegistry
) -> None:
    body = b'{"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry"}]}'
    registry.faults.append(Fault("PUT", "/manifests/", status=400, body=body))
    (row,) = ask(wiring, [at(registry, "team/app00")])
    assert row.error is None
    assert len(registry.find_requests("PUT", "/manifests/")) == 2


def test_what_is_listed_and_can_be_no_image_is_passed_over(wiring: Wiring, registry: FakeRegistry) -> None:
    registry.put_manifest("team/UPPER", "latest", b"{}", "application/json")
    registry.put_manifest("team/app00", "-odd", b"{}", "application/json")
    assert len(list(list_images(wiring, f"{registry.host}/team/"))) == 12
    assert len(list(list_images(wiring, f"{registry.host}/team/app00"))) == 1


def test_an_index_that_is_nested_too_deep_stops_no_other(wiring: Wiring, registry: FakeRegistry) -> None:
    media_type, raw = registry.manifests["team/app00", "latest"]
    manifest = Manifest.parse(raw, media_type)
    entries = [replace(manifest.descriptor, target=Target("linux", "amd64")).fields()] * 2
    document = json.dumps({"schemaVersion": 2, "manifests": entries, "x": "deep"})
    document = document.replace('"deep"', "[" * 800 + "]" * 800)
    registry.put_manifest("team/app00", "latest", document.encode(), MediaType.OCI_INDEX)
    rows = ask(wiring, [at(registry, f"team/app{number:02}") for number in range(3)])
    assert rows[0].error and "nested too deep" in rows[0].error.why
    assert states(rows) == {RebaseState.REBASED: 2, "failed": 1}
