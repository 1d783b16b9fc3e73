"""Every tag of a repository to another place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.artifact import SBOM, SIGNATURE, attach, attach_by_tag
from fakes.small_image import fresh_image, stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, RegistryError
from packhorse.fleet.copy import CopyOptions, copy, copy_tags
from packhorse.host.wiring import Wiring
from packhorse.oci.layout import Layout
from packhorse.oci.place import DOCUMENT_LIMIT, members, push_image
from packhorse.oci.reference import Location
from packhorse.oci.types import Descriptor, Document, Index, MediaType
from packhorse.store.store import Store
from packhorse.testing import FakeRegistry, Fault

A, B = (tar_of({name: name.encode() * 9000}) for name in "ab")


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.page = 2
        yield server


@pytest.fixture
def wiring(tmp_path: Path, server: FakeRegistry) -> Iterator[Wiring]:
    with Store.open(tmp_path / "store") as store:
        wiring = Wiring(store)
        for number in range(5):
            place = wiring.place(Location.parse(f"docker://{server.host}/app:{number}"))
            push_image(fresh_image(A, B, env=(f"N={number}",)), place)
        yield wiring


def tags(wiring: Wiring, source: str, destination: str) -> dict[str, object]:
    copied = copy_tags(wiring, Location.parse(source), Location.parse(destination), CopyOptions())
    return dict(copied)


def test_all_tags_go_to_another_registry_and_shared_layers_once(server, wiring):
    with FakeRegistry() as other:
        outcome = tags(wiring, f"docker://{server.host}/app", f"docker://{other.host}/team/copy")
        assert list(outcome) == ["0", "1", "2", "3", "4"]
        for tag in outcome:
            assert other.manifests["team/copy", tag] == server.manifests["app", tag]
        assert len(other.find_requests("PUT", "blobs")) == 2 + 5  # layers, configs


def test_what_many_tags_stand_for_is_brought_once(server, wiring):
    media_type, raw = server.manifests["app", "1"]
    for number in range(40):
        server.put_manifest("app", f"same-{number}", raw, media_type)
    with FakeRegistry() as other:
        server.requests.clear()
        outcome = tags(wiring, f"docker://{server.host}/app", f"docker://{other.host}/copy")
        assert len(outcome) == 45
        assert len(server.find_requests("GET", "manifests")) == 45
        assert len(server.find_requests("GET", "blobs")) == len(other.find_requests("PUT", "blobs")) == 2 + 5
        other.requests.clear()
        again = Wiring(wiring.store)
        assert tags(again, f"docker://{server.host}/app", f"docker://{other.host}/copy") == outcome
        assert {each.method for each in other.requests} == {"GET", "HEAD"}


@pytest.mark.parametrize("kind", ["docker", "oci"])
def test_of_a_list_of_tags_without_an_end_each_tag_is_copied_once_and_the_error_comes_last(
    server, wiring, tmp_path, kind
):
    server.endless = "same"
    with FakeRegistry() as other:
        there = f"docker://{other.host}/copy" if kind == "docker" else f"oci:{tmp_path}/layout"
        rows = copy_tags(
            wiring, Location.parse(f"docker://{server.host}/app"), Location.parse(there), CopyOptions()
        )
        found = []
        with pytest.raises(RegistryError, match="has no end"):
            for row in rows:
                found.append(row)  # noqa: PERF402 -- what came before the error counts
        assert [tag for tag, _ in found] == ["0", "1", "2", "3", "4"]
        if kind == "oci":
            assert len(wiring.names(Location.parse(there))) == 5


def test_a_layout_that_takes_no_names_is_told_of_every_tag(server, wiring, tmp_path):
    layout = tmp_path / "layout"
    (layout / "index.json").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    outcome = tags(wiring, f"docker://{server.host}/app", f"oci:{layout}")
    assert len(outcome) == 5 and all(isinstance(what, FormatError) for what in outcome.values())


def test_one_that_fails_stops_no_other(server, wiring):
    with FakeRegistry() as other:
        other.faults.append(Fault(method="PUT", path="manifests/2", status=403, times=9))
        outcome = tags(wiring, f"docker://{server.host}/app", f"docker://{other.host}/copy")
        assert [tag for tag, what in outcome.items() if not isinstance(what, Digest)] == ["2"]
        assert isinstance(outcome["2"], RegistryError)


def test_tags_are_the_names_in_a_layout(server, wiring, tmp_path):
    tags(wiring, f"docker://{server.host}/app", f"oci:{tmp_path / 'layout'}")
    assert Layout(tmp_path / "layout", "3").read().config.env == ("N=3",)


def test_what_is_attached_comes_along_where_it_is_asked_for(server, wiring, tmp_path):
    name, said = Location.parse(f"docker://{server.host}/app:1"), []
    image = wiring.place(name).read()
    there = wiring.index_place(name, writes=True)
    sbom = attach(there, image.manifest.descriptor, SBOM)
    attach(there, sbom.descriptor, SIGNATURE)
    for text in (f"oci:{tmp_path / 'layout'}:x", f"docker://{server.host}/copy:x"):
        place = Location.parse(text)
        digest = copy(wiring, name, place, CopyOptions(referrers=True), say=said.append)
        assert digest == image.manifest.digest == wiring.index_place(place).root().digest
        (found,) = wiring.index_place(place).referrers(digest)
        assert found.descriptor.digest == sbom.digest
        assert len(wiring.index_place(place).referrers(sbom.digest)) == 1
    assert said == ["copied 2 referrers too"] * 2
    with pytest.raises(InputError, match="takes one image per name"):
        copy(
            wiring, name, Location.parse(f"docker-archive:{tmp_path / 'x.tar'}"), CopyOptions(referrers=True)
        )


def test_the_name_comes_after_what_is_attached(server, wiring):
    name = Location.parse(f"docker://{server.host}/app:1")
    image = wiring.place(name).read()
    attach(wiring.index_place(name, writes=True), image.manifest.descriptor, SIGNATURE)
    server.faults.append(Fault(method="PUT", path="/copy/manifests/sha256-", status=403, times=9))
    server.has_referrers = False
    attach(wiring.index_place(name, writes=True), image.manifest.descriptor, SBOM)
    with pytest.raises(RegistryError):
        copy(wiring, name, Location.parse(f"docker://{server.host}/copy:x"), CopyOptions(referrers=True))
    assert ("copy", "x") not in server.manifests


def test_tags_of_what_is_attached_come_along_with_the_image_alone(server, wiring):
    name = Location.parse(f"docker://{server.host}/app:1")
    image = wiring.place(name).read()
    attach_by_tag(wiring.index_place(name, writes=True), image.manifest.descriptor, "sig")
    source = f"docker://{server.host}/app"
    assert list(tags(wiring, source, f"docker://{server.host}/without")) == ["0", "1", "2", "3", "4"]
    places = Location.parse(source), Location.parse(f"docker://{server.host}/with")
    assert len(list(copy_tags(wiring, *places, CopyOptions(referrers=True)))) == 5
    tagged = {repository for repository, tag in server.manifests if tag.endswith(".sig")}
    assert tagged == {"app", "with"}


def test_what_is_attached_to_what_several_tags_stand_for_is_brought_once(server, wiring):
    root = wiring.index_place(Location.parse(f"docker://{server.host}/app:1")).root()
    for number in range(9):
        wiring.index_place(Location.parse(f"docker://{server.host}/app:also{number}"), writes=True).set_name(
            root
        )
    attach(
        wiring.index_place(Location.parse(f"docker://{server.host}/app:1"), writes=True),
        root.descriptor,
        SBOM,
    )
    with FakeRegistry() as other:
        places = Location.parse(f"docker://{server.host}/app"), Location.parse(f"docker://{other.host}/copy")
        rows = dict(copy_tags(Wiring(wiring.store), *places, CopyOptions(referrers=True)))
        assert len(rows) == 14 and rows["also8"] == root.digest
        asked = [each for each in server.find_requests("GET", "/referrers/") if root.digest.hex in each.path]
        assert len(asked) == 1
        found = wiring.index_place(Location.parse(f"docker://{other.host}/copy:also8")).referrers(root.digest)
        assert [each.kind for each in found] == [SBOM]


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("store:app", "docker://registry.example/app"),
        ("docker://registry.example/app:1", "docker://registry.example/b"),
        ("docker://registry.example/app", "docker://registry.example/b:1"),
        ("docker://registry.example/app", "docker-archive:x.tar"),
        ("docker://registry.example/app", "oci:dir:tag"),
    ],
)
def test_places_that_take_no_tags_are_refused_before_anything_is_asked(wiring, source, destination):
    with pytest.raises(InputError):
        tags(wiring, source, destination)


def test_an_index_that_multiplies_is_given_up_before_it_is_read(wiring: Wiring) -> None:
    """Each level names what is below it many times, in documents of their own."""
    manifest = stored_image(A).manifest
    assert manifest
    asked: list[Descriptor] = []

    class Wide:
        """A name with a thousand indexes of a thousand images."""

        def root(self) -> Document:
            return Index.of(other(MediaType.OCI_INDEX, number) for number in range(1000))

        def member(self, entry: Descriptor) -> Document:
            asked.append(entry)
            if entry.media_type == MediaType.OCI_MANIFEST:
                return manifest
            return Index.of(
                other(MediaType.OCI_MANIFEST, len(asked) * 1000 + number) for number in range(1000)
            )

        def blob(self, blob: Descriptor) -> Iterator[bytes]:
            raise AssertionError

    def other(media_type: MediaType, number: int) -> Descriptor:
        return Descriptor(media_type, Digest.of(f"{media_type} {number}".encode()), 100)

    with pytest.raises(FormatError, match="too much in it"):
        list(members(Wide(), Wide().root()))
    assert len(asked) == DOCUMENT_LIMIT


def test_what_is_named_twice_is_copied_once(server: FakeRegistry, wiring: Wiring) -> None:
    media_type, raw = server.manifests["app", "0"]
    entry = Descriptor(media_type, Digest.of(raw), len(raw))
    server.put_manifest("app", "both", Index.of([entry, entry]).raw, MediaType.OCI_INDEX)
    place = Location.parse(f"docker://{server.host}/app:both")
    source = wiring.index_place(place)
    assert len(list(members(source, source.root()))) == 1
