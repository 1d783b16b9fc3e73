from __future__ import annotations

import os
import resource
import threading

import pytest

from packhorse.base.digest import Digest
from packhorse.errors import FormatError, StoreError
from packhorse.store.blobs import Blobs
from packhorse.store.leases import Lease
from packhorse.store.store import Store


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs(Lease.acquire(store.path))


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
    before = set(threading.enumerate())
    with pytest.raises(ConnectionError), blobs.writer() as writer:
        for _ in range(8):
            writer.write(bytes(MIB))
        assert len(set(threading.enumerate()) - before) == 1
        raise ConnectionError
    assert set(threading.enumerate()) <= before
    assert list(blobs.lease.scratch.iterdir()) == []


def test_a_damaged_blob_is_noticed_and_removed(blobs: Blobs) -> None:
    digest = blobs.put(b"content")
    blobs.path(digest).write_bytes(b"contenx")
    with pytest.raises(StoreError, match=r"(?s)damaged.*blobs/sha256/"):
        blobs.read(digest)
    assert blobs.size(digest) is None


def test_parts_of_a_blob_are_read_in_any_order(blobs: Blobs) -> None:
    data = os.urandom((3 << 20) + 5)
    with blobs.part_reader(blobs.put(data)) as read:
        for start, end in ((1 << 20, len(data)), (0, 3), (7, 7), (0, len(data))):
            assert b"".join(read(start, end)) == data[start:end]


def test_a_blob_is_checked_as_soon_as_a_part_of_it_is_read(blobs: Blobs) -> None:
    digest = blobs.put(b"content" * 1000)
    blobs.path(digest).write_bytes(b"content" * 999 + b"CONTENT")
    with blobs.part_reader(digest):
        pass
    with pytest.raises(StoreError, match="damaged"), blobs.part_reader(digest) as read:
        assert next(read(0, 7)) == b"content"
    assert blobs.size(digest) is None


def test_a_blob_that_ends_before_a_part_of_it_is_damaged(blobs: Blobs) -> None:
    digest = blobs.put(b"content" * 1000)
    os.truncate(blobs.path(digest), 999)
    with pytest.raises(StoreError, match="damaged"), blobs.part_reader(digest) as read:
        list(read(990, 1010))
    assert blobs.size(digest) is None


def test_nobody_goes_on_with_parts_that_nobody_wants(blobs: Blobs) -> None:
    digest = blobs.put(os.urandom(32 << 20))
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), blobs.part_reader(digest) as read:
        next(read(0, 10))
        1 / 0  # noqa: B018
    assert set(threading.enumerate()) <= threads
    assert set(os.listdir("/proc/self/fd")) <= descriptors
