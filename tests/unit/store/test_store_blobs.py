from __future__ import annotations

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


def test_a_damaged_blob_is_noticed_and_removed(blobs: Blobs) -> None:
    digest = blobs.put(b"content")
    blobs.path(digest).write_bytes(b"contenx")
    with pytest.raises(StoreError, match=r"(?s)damaged.*blobs/sha256/"):
        blobs.read(digest)
    assert blobs.size(digest) is None
