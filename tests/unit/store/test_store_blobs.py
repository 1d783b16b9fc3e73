from __future__ import annotations

import resource
import threading

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, StoreError
from packhorse.store.blobs import Blobs
from packhorse.store.lease import Lease
from packhorse.store.store import Store


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs(Lease.take(store.path))


def test_a_blob_is_found_under_its_digest(blobs: Blobs) -> None:
    digest = blobs.put(b"content")
    assert digest == Digest.of(b"content")
    assert blobs.size(digest) == 7
    assert blobs.path(digest).read_bytes() == b"content"
    assert blobs.read(digest) == b"content"


def test_bytes_that_are_not_what_was_announced_are_not_stored(blobs: Blobs) -> None:
    announced = Digest.of(b"other")
    with pytest.raises(FormatError, match=announced.hex):
        blobs.add([b"content"], announced)
    assert blobs.size(announced) is None
    assert blobs.size(Digest.of(b"content")) is None
    assert list(blobs.lease.scratch.iterdir()) == []


def test_a_blob_is_not_there_before_it_is_whole(blobs: Blobs) -> None:
    with pytest.raises(ConnectionError), blobs.writer() as writer:
        writer.write(b"cont")
        assert blobs.size(Digest.of(b"cont")) is None
        raise ConnectionError
    assert blobs.size(Digest.of(b"cont")) is None
    assert list(blobs.lease.scratch.iterdir()) == []


MIB = 1 << 20


@pytest.mark.parametrize("sizes", [[MIB], [MIB, 1], [1, MIB], [MIB] * 30, [30 * MIB], [MIB - 1, 1, 0, 5]])
def test_a_blob_of_any_size_has_its_bytes_in_their_order(blobs: Blobs, sizes: list[int]) -> None:
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    digest, size = blobs.add(chunks)
    assert (digest, size) == (Digest.of(b"".join(chunks)), sum(sizes))
    assert blobs.read(digest) == b"".join(chunks)
    assert list(blobs.lease.scratch.iterdir()) == []


@pytest.mark.parametrize("count", [2, 4, 40])
def test_a_blob_that_the_disk_does_not_take_is_an_error_and_leaves_nothing(blobs: Blobs, count: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB + 5, before[1]))
    try:
        with pytest.raises(StoreError, match="File too large"):
            blobs.add(bytes(MIB) for _ in range(count))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert blobs.size(Digest.of(bytes(count * MIB))) is None
    assert list(blobs.lease.scratch.iterdir()) == []


def test_no_thread_goes_on_with_a_blob_that_nobody_wants(blobs: Blobs) -> None:
    before = threading.active_count()
    with pytest.raises(ConnectionError), blobs.writer() as writer:
        for _ in range(8):
            writer.write(bytes(MIB))
        assert threading.active_count() == before + 1
        raise ConnectionError
    assert threading.active_count() == before
    assert list(blobs.lease.scratch.iterdir()) == []


def test_a_damaged_blob_is_noticed_and_removed(blobs: Blobs) -> None:
    digest = blobs.put(b"content")
    blobs.path(digest).write_bytes(b"contenx")
    with pytest.raises(StoreError, match=r"(?s)damaged.*blobs/sha256/"):
        blobs.read(digest)
    assert blobs.size(digest) is None
