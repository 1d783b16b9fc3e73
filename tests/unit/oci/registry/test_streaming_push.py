"""A large layer of unknown digest goes out while it is compressed, and is read again only if that is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fakes.small_image import Tape, config_of
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, RegistryError
from packhorse.http.client import Client
from packhorse.http.transport import PooledTransport, Settings
from packhorse.oci.compress import Compression, decompress
from packhorse.oci.place import Image, Layer
from packhorse.oci.reference import Reference
from packhorse.oci.registry.client import Registry
from packhorse.oci.registry.place import RegistryPlace
from packhorse.oci.registry.push import PART
from packhorse.oci.types import Descriptor, MediaType
from packhorse.testing import FakeRegistry, Fault

pytestmark = pytest.mark.system

TAR = random.Random(1).randbytes(2 * PART + 3_000_000)
SMALL = TAR[:1_000_000]


@pytest.fixture
def server() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


def place(server: FakeRegistry, name: str = "app", **more: Compression) -> RegistryPlace:
    registry = Registry(server.host, Client(PooledTransport(Settings()), sleep=lambda _: None))
    reference = Reference.parse(f"{server.host}/{name}")
    return RegistryPlace(reference, registry, target=Target("linux", "amd64"), **more)


def chunks(tar: bytes = TAR) -> Iterator[bytes]:
    return (tar[start : start + 65536] for start in range(0, len(tar), 65536))


class Passes:
    """A tar that counts how often it is read, and how far."""

    def __init__(self, tar: bytes = TAR) -> None:
        self.tar = tar
        self.count = 0

    def __call__(self) -> Iterator[bytes]:
        self.count += 1
        return chunks(self.tar)


def stored(server: FakeRegistry, layer: Layer, name: str = "app") -> bytes:
    assert layer.descriptor is not None
    return b"".join(decompress([server.blobs[name][str(layer.descriptor.digest)]]))


def test_a_large_layer_is_sent_in_parts_and_read_once(server):
    tar = Passes()
    layer = place(server).write_layer(Layer(tar))
    assert stored(server, layer) == TAR
    assert (layer.diff_id, layer.size, tar.count) == (Digest.of(TAR), len(TAR), 1)
    assert len(server.find_requests("PATCH")) == 2
    assert server.sent == layer.descriptor.size


def test_the_first_part_is_on_its_way_before_the_last_is_read(server):
    def tar() -> Iterator[bytes]:
        yield from chunks(TAR[:-1])
        end = time.monotonic() + 120
        while not server.find_requests("PATCH"):
            assert time.monotonic() < end
            time.sleep(0.01)
        yield TAR[-1:]

    assert stored(server, place(server).write_layer(Layer(tar))) == TAR


def test_a_small_layer_is_asked_for_before_it_is_sent(server):
    place(server).write_layer(Layer(lambda: chunks(SMALL)))
    place(server).write_layer(Layer(lambda: chunks(SMALL)))
    assert len(server.find_requests("PUT")) == 1
    assert server.find_requests("PATCH") == []


@pytest.mark.parametrize(
    "fault", [{"cut_request": 5_000_000}, {"status": 500}, {"hang_up": True}, {"status": 429}]
)
def test_a_part_that_fails_goes_on_without_a_second_reading(server, fault):
    server.faults.append(Fault(method="PATCH", skip=1, **fault))
    tar = Passes()
    assert stored(server, place(server).write_layer(Layer(tar))) == TAR
    assert tar.count == 1


def test_the_closing_request_may_fail_too(server):
    server.faults.append(Fault(method="PUT", cut_request=1_000_000))
    tar = Passes()
    layer = place(server).write_layer(Layer(tar))
    assert stored(server, layer) == TAR
    assert (tar.count, server.sent) == (1, layer.descriptor.size)


def test_what_a_registry_has_forgotten_is_read_again(server):
    server.forgets_cut_uploads = True
    server.faults.append(Fault(method="PATCH", skip=1, cut_request=5_000_000))
    tar = Passes()
    assert stored(server, place(server).write_layer(Layer(tar))) == TAR
    assert tar.count == 2


@pytest.mark.parametrize("status", [404, 405, 413, 416, 501])
def test_a_registry_that_takes_no_parts_gets_one_piece(server, status):
    server.faults.append(Fault(method="PATCH", status=status, times=9))
    assert stored(server, place(server).write_layer(Layer(chunks))) == TAR


def test_who_may_not_write_is_told_at_once(server):
    server.faults.append(Fault(method="POST", status=403, times=9))
    tar = Passes()
    with pytest.raises(RegistryError) as caught:
        place(server).write_layer(Layer(tar))
    assert (caught.value.status, tar.count) == (403, 1)


def test_parts_are_as_long_as_the_registry_demands(server):
    server.least_chunk = PART + 1_000_000
    assert stored(server, place(server).write_layer(Layer(chunks))) == TAR
    assert all(
        int(seen.headers["content-length"]) >= server.least_chunk for seen in server.find_requests("PATCH")
    )


def test_a_layer_that_the_name_has_now_is_not_sent_before_its_digest_is_known(server):
    first = place(server)
    layer = first.write_layer(Layer(chunks))
    first.write_image(Image(config_of(TAR), (layer,)))
    sent = server.sent
    again = place(server).write_layer(Layer(chunks, Digest.of(TAR)))
    assert again.descriptor == layer.descriptor
    assert server.sent == sent


def test_a_layer_that_was_pushed_before_costs_one_question(server):
    layer = place(server).write_layer(Layer(chunks))
    server.requests.clear()
    tape = Tape(TAR)
    again = place(server).write_layer(Layer(tape, Digest.of(TAR), descriptor=layer.descriptor))
    assert again.descriptor == layer.descriptor
    assert [(seen.method, tape.passes) for seen in server.requests] == [("HEAD", 0)]


def test_what_is_known_of_a_layer_that_is_not_there_spares_the_second_copy(server):
    known = place(server).write_layer(Layer(chunks)).descriptor
    server.requests.clear()
    tar = Passes()
    again = place(server, "other").write_layer(Layer(tar, Digest.of(TAR), descriptor=known))
    assert stored(server, again, "other") == TAR
    assert [seen.method for seen in server.requests] == ["HEAD", "HEAD", "POST", "PUT"]
    assert tar.count == 1


def test_what_was_known_wrongly_of_a_layer_is_corrected(server):
    wrong = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(b"x"), 17)
    layer = place(server).write_layer(Layer(lambda: chunks(SMALL), Digest.of(SMALL), descriptor=wrong))
    assert stored(server, layer) == SMALL
    assert layer.descriptor != wrong


def test_a_tar_that_is_not_what_it_says_leaves_no_upload_behind(server):
    with pytest.raises(FormatError):
        place(server).write_layer(Layer(chunks, Digest.of(b"other")))
    assert server.blobs == {}
    assert server.uploads == {}


def test_layers_are_zstd_on_request_and_the_same_everywhere(server):
    layer = place(server, compression=Compression.ZSTD).write_layer(Layer(lambda: chunks(SMALL * 9)))
    assert layer.descriptor.media_type == MediaType.OCI_LAYER_ZSTD
    assert stored(server, layer) == SMALL * 9
    whole = replace(layer, blob=None, descriptor=None, tar=lambda: iter([SMALL * 9]))
    assert place(server, compression=Compression.ZSTD).write_layer(whole).descriptor == layer.descriptor


def test_parts_that_would_fill_the_memory_are_not_gathered(server: FakeRegistry) -> None:
    server.least_chunk = 9_999_999_999
    assert stored(server, place(server).write_layer(Layer(chunks))) == TAR
    assert not server.find_requests("PATCH") and not server.uploads
    assert len(server.find_requests("DELETE")) == 1
