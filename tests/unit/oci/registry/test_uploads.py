"""Uploads that are cut, refused in one piece or forgotten: what is sent again, and what is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import NetworkError, NotFoundError, PackhorseError, RegistryError
from packhorse.http.client import LONGEST_PAUSE, BrokenConnection, Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.auth import Credentials, constant_lookup
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.push import ATTEMPTS, push_blob
from packhorse.oci.types import Descriptor, MediaType
from packhorse.testing import FakeRegistry, Fault

pytestmark = pytest.mark.system

DATA = hashlib.shake_256(b"blob").digest(3_000_000)
BLOB = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(DATA), len(DATA))
CUT = 2_100_000
"""Seventy hundredths."""


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def registry(server: FakeRegistry, pauses: list[float]) -> Registry:
    return Registry(server.host, Client(PooledTransport(Settings()), sleep=pauses.append))


def content() -> Iterator[bytes]:
    for start in range(0, len(DATA), 65536):
        yield DATA[start : start + 65536]


def bring(registry: Registry) -> None:
    push_blob(registry, "app", BLOB, content)


def arrived(server: FakeRegistry) -> bool:
    return server.blobs.get("app", {}).get(str(BLOB.digest)) == DATA


def test_an_upload_that_is_cut_at_seventy_percent_goes_on_from_there(server, registry):
    server.faults.append(Fault(method="PUT", path="uploads", cut_request=CUT))
    bring(registry)
    assert arrived(server)
    assert server.sent == len(DATA)
    ranges = [seen.headers.get("content-range") for seen in server.find_requests("PUT")]
    assert ranges == [None, f"{CUT}-{len(DATA) - 1}"]


def test_an_upload_may_be_cut_as_often_as_it_gets_on_by_a_mebibyte(server, registry):
    data = DATA * 6
    blob = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(data), len(data))
    server.faults.append(Fault(method="PUT", path="uploads", cut_request=1_200_000, times=14))
    push_blob(registry, "app", blob, lambda: iter([data]))
    assert server.sent == len(data)
    assert len(server.find_requests("PUT")) == 15 > 2 * ATTEMPTS


def test_an_upload_that_does_not_get_on_is_given_up(server, registry, pauses):
    server.faults.append(Fault(method="PUT", path="uploads", cut_request=1000, times=100))
    with pytest.raises(NetworkError):
        bring(registry)
    assert len(server.find_requests("PUT")) == ATTEMPTS
    assert pauses == sorted(pauses)


def test_an_upload_that_the_registry_has_forgotten_is_begun_anew(server, registry):
    server.forgets_cut_uploads = True
    server.faults.append(Fault(method="PUT", path="uploads", cut_request=CUT))
    bring(registry)
    assert arrived(server)
    assert server.sent == len(DATA) + CUT


def test_an_upload_whose_last_answer_was_lost_is_not_sent_again(server, registry):
    server.faults.append(Fault(method="PUT", path="uploads", times=1, status=500))
    server.put_blob("app", DATA)
    server.faults.insert(0, Fault(method="HEAD", path="blobs", status=404))
    server.faults.append(Fault(method="GET", path="uploads", status=404))
    bring(registry)
    assert len(server.find_requests("PUT")) == 1


@pytest.mark.parametrize("told", ["", "nonsense", "0-9999999", "5-9"])
def test_a_registry_that_does_not_say_how_far_it_got_is_sent_all(server, registry, told):
    server.faults.append(Fault(method="PUT", path="uploads", cut_request=CUT))
    server.faults.append(Fault(method="GET", path="uploads", headers={"range": told}))
    bring(registry)
    assert arrived(server)


def test_what_is_too_large_in_one_piece_goes_in_chunks(server, registry):
    server.faults.append(Fault(method="PUT", path="uploads", status=413))
    bring(registry)
    assert arrived(server)
    chunks = [int(seen.headers["content-length"]) for seen in server.find_requests("PATCH")]
    assert chunks == [1 << 20, 1 << 20]
    assert server.find_requests("PUT")[1].headers["content-range"] == f"{2 << 20}-{len(DATA) - 1}"


def test_chunks_are_as_small_as_the_way_there_takes_and_as_large_as_the_registry_demands(server, registry):
    data = DATA * 12
    blob = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(data), len(data))
    server.faults.append(Fault(method="PUT", path="uploads", status=413))
    server.faults.append(Fault(method="PATCH", path="uploads", status=413))
    server.least_chunk = 2_000_000
    push_blob(registry, "app", blob, lambda: iter([data]))
    assert str(blob.digest) in server.blobs["app"]
    sizes = [int(seen.headers["content-length"]) for seen in server.find_requests("PATCH")[1:]]
    assert set(sizes) == {2_000_000}
    starts = [seen.headers["content-range"].partition("-")[0] for seen in server.find_requests("PATCH")[1:]]
    assert starts == [str(2_000_000 * number) for number in range(len(sizes))]


def test_a_chunk_that_is_cut_goes_on_within_it(server, registry):
    data = DATA * 12
    blob = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(data), len(data))
    server.faults.append(Fault(method="PUT", path="uploads", status=413))
    server.faults.append(Fault(method="PATCH", path="uploads", cut_request=5_000_000))
    push_blob(registry, "app", blob, lambda: iter([data]))
    assert str(blob.digest) in server.blobs["app"]
    assert server.find_requests("PATCH")[1].headers["content-range"].startswith("5000000-")


def test_a_registry_that_asks_for_time_is_given_it(server, registry, pauses):
    server.faults.append(Fault(method="PUT", path="uploads", status=429, headers={"retry-after": "7"}))
    bring(registry)
    assert pauses == [7.0]
    assert arrived(server)


def test_a_registry_that_asks_for_too_much_time_is_not_waited_for(server, registry, pauses):
    longer = str(int(LONGEST_PAUSE) + 1)
    server.faults.append(Fault(method="PUT", path="uploads", status=503, headers={"retry-after": longer}))
    with pytest.raises(RegistryError):
        bring(registry)
    assert pauses == []


@pytest.mark.parametrize("status", [400, 403, 405, 409, 422])
def test_what_is_refused_for_good_is_not_tried_again_and_left_to_nobody(server, registry, pauses, status):
    server.faults.append(Fault(method="PUT", path="uploads", status=status, times=9))
    with pytest.raises(NetworkError):
        bring(registry)
    assert (len(server.find_requests("PUT")), pauses) == (1, [])
    assert server.uploads == {}


def test_a_token_that_ends_during_a_long_push_is_fetched_anew():
    with FakeRegistry(users={"me": "pw"}) as server:
        server.token_life = 60  # one that the other threads do not use up before who fetched it
        credentials = constant_lookup(Credentials("me", "pw"))
        registry = Registry(
            server.host, Client(PooledTransport(Settings()), sleep=lambda _: None), credentials=credentials
        )
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: _bring_one(registry, number), range(120)))
        assert len(server.blobs["app"]) == 120
        assert len(server.find_requests("GET", "/token")) > 2


def _bring_one(registry: Registry, number: int) -> None:
    data = hashlib.shake_256(bytes([number])).digest(200_000)
    blob = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(data), len(data))
    push_blob(registry, "app", blob, lambda: iter([data]))


def test_uploads_side_by_side_share_their_connections(server, registry):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: _bring_one(registry, number), range(24)))
    assert len(server.blobs["app"]) == 24
    assert server.connections <= 4


@pytest.mark.parametrize(
    "failure",
    [NotFoundError("gone"), BrokenConnection("cut"), *(RegistryError("no", status=s) for s in (413, 500))],
)
def test_what_cannot_be_read_is_told_at_once_and_not_taken_for_the_registrys_fault(
    server: FakeRegistry, registry: Registry, pauses: list[float], failure: PackhorseError
) -> None:
    def broken() -> Iterator[bytes]:
        yield DATA[:65536]
        raise failure

    with pytest.raises(type(failure)) as caught:
        push_blob(registry, "app", BLOB, broken)
    assert caught.value is failure
    assert not pauses and not server.uploads
