"""What refers to an image, by the registry's list or by the tag in its place; and taking things away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fakes.artifact import EMPTY, SBOM, SIGNATURE, artifact
from fakes.small_image import stored_image, tar_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, NotFoundError, RegistryError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.place import push_image
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.listing import list_referrers, put_referrer, remove
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import push_blob
from packhorse.oci.types import Descriptor, MediaType
from packhorse.testing import FakeRegistry


@pytest.fixture(params=["list", "tag"])
def server(request: pytest.FixtureRequest) -> Iterator[FakeRegistry]:
    with FakeRegistry(users={"me": "pw"}) as server:
        server.has_referrers = request.param == "list"
        yield server


def registry_of(server: FakeRegistry) -> Registry:
    http = Client(PooledTransport(Settings()), sleep=lambda _: None)
    return Registry(server.host, http, credentials=constant_lookup(Credentials("me", "pw")))


def pushed(server: FakeRegistry, tag: str = "1") -> Descriptor:
    place = RegistryPlace(
        Reference.parse(f"{server.host}/app:{tag}"), registry_of(server), target=Target("linux", "amd64")
    )
    receipt = push_image(stored_image(tar_of({"a": b"a"})), place)
    assert receipt.manifest_digest
    return Descriptor(MediaType.OCI_MANIFEST, receipt.manifest_digest, receipt.manifest_size)


def attached(registry: Registry, subject: Descriptor, kind: str, number: int = 0) -> Digest:
    push_blob(registry, "app", EMPTY, lambda: iter([b"{}"]))
    manifest = artifact(subject, kind, number=number)
    put_referrer(registry, "app", manifest, subject=subject.digest)
    return manifest.digest


def test_a_list_of_referrers_without_an_end_is_an_error(server):
    if not server.has_referrers:
        return  # a tag has one page
    subject, registry = pushed(server), registry_of(server)
    attached(registry, subject, SBOM)
    server.endless = "same"
    with pytest.raises(RegistryError, match="has no end"):
        list_referrers(registry, "app", subject.digest)


def test_what_was_attached_is_found_by_its_subject_with_its_kind(server):
    subject, registry = pushed(server), registry_of(server)
    assert list_referrers(registry, "app", subject.digest) == ()
    sbom, signature = attached(registry, subject, SBOM), attached(registry, subject, SIGNATURE)
    everything = {
        each.descriptor.digest: each.kind for each in list_referrers(registry, "app", subject.digest)
    }
    assert everything == {sbom: SBOM, signature: SIGNATURE}
    assert (("app", f"sha256-{subject.digest.hex}") in server.manifests) is not server.has_referrers


def test_attaching_again_changes_nothing(server):
    subject, registry = pushed(server), registry_of(server)
    assert attached(registry, subject, SBOM) == attached(registry, subject, SBOM)
    assert len(list_referrers(registry, "app", subject.digest)) == 1


def test_a_tag_of_that_name_that_is_no_list_is_an_error():
    with FakeRegistry() as server:
        server.has_referrers = False
        subject = pushed(server)
        pushed(server, f"sha256-{subject.digest.hex}")
        with pytest.raises(FormatError, match="no list of referrers"):
            list_referrers(registry_of(server), "app", subject.digest)


def test_many_attachments_are_all_found(server):
    subject = pushed(server)
    digests = [attached(registry_of(server), subject, SBOM, number) for number in range(5)]
    found = [each.descriptor.digest for each in list_referrers(registry_of(server), "app", subject.digest)]
    assert sorted(found) == sorted(digests)


def test_a_tag_is_removed_alone_and_an_image_with_all_its_tags(server):
    subject = pushed(server)
    pushed(server, "2")
    pushed(server, "3")
    registry = registry_of(server)
    remove(registry, "app", "1")
    assert {key[1] for key in server.manifests} == {"2", "3", str(subject.digest)}
    remove(registry, "app", str(subject.digest))
    assert server.manifests == {}
    with pytest.raises(NotFoundError):
        remove(registry, "app", "2")


def test_o_034_what_was_removed_is_not_listed_any_more(server):
    registry, subject = registry_of(server), pushed(server)
    kept, gone = (attached(registry, subject, kind) for kind in (SBOM, SIGNATURE))
    remove(registry, "app", str(gone))
    found = list_referrers(registry, "app", subject.digest)
    assert [each.descriptor.digest for each in found] == [kept]
    remove(registry, "app", str(subject.digest))
    assert list_referrers(registry, "app", subject.digest) == found


def test_a_registry_that_removes_nothing_says_so(server):
    subject = pushed(server)
    server.deletes = False
    with pytest.raises(RegistryError, match="does not allow removal"):
        remove(registry_of(server), "app", str(subject.digest))
    with pytest.raises(RegistryError, match="cannot remove a single tag") as caught:
        remove(registry_of(server), "app", "1")
    assert caught.value.fix.endswith(f"packhorse rmi docker://{server.host}/app@{subject.digest}")
