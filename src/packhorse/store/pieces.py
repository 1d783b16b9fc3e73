"""④ Where an application's directories are in the layer that it was packed to: `layers/<diff ID>.pieces`.

Called by harvest and gc. When a piece may stand for a directory again is `layers.pieces`'. It only saves
time: what cannot be read, or written, is as if it were not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.errors import HostError, StoreError
from packhorse.layers.pieces import FormerSlice, Piece
from packhorse.store import record
from packhorse.store.blobs import Blobs
from packhorse.store.lease import Lease

_FORMAT = 1
"""Of the file, and of the tar: pieces of one that was written in another way are of no use."""


def file_name(diff_id: Digest) -> str:
    """The file of a layer's pieces, in a store."""
    return f"layers/{diff_id.hex}.pieces"


def write(lease: Lease, diff_id: Digest, terms: str, pieces: Mapping[str, Piece]) -> None:
    """Keeps the pieces of a layer that was packed with these `terms`, if its tar is here.

    Their digest stands before them: a wrong number in it would be a wrong image.
    """
    with suppress(StoreError, HostError):
        size = Blobs(lease).size(diff_id)
        if size is None:
            return
        lease.pin(file_name(diff_id))
        data = json.dumps({"format": _FORMAT, "terms": terms, "size": size, "pieces": pieces}).encode()
        path = lease.store / file_name(diff_id)
        record.write_bytes(lease, path, f"{Digest.of(data)}\n".encode() + data, durable=False)


@contextmanager
def open_former(lease: Lease, diff_id: Digest, terms: str) -> Iterator[FormerSlice | None]:
    """A layer by its pieces; None where they, or its tar, are not here, or were packed with other terms.

    Raises StoreError, at the latest when the block ends, where the tar is damaged or cannot be read: what was
    made with it is wrong. Its pieces are forgotten then, so the next build does without.
    """
    blobs = Blobs(lease)
    known = _read(lease, diff_id, terms)
    if known is None or blobs.size(diff_id) != known[1]:
        yield None
        return
    try:
        with blobs.part_reader(diff_id) as read:
            yield FormerSlice(*known, read)
    except StoreError:
        with suppress(OSError):
            (lease.store / file_name(diff_id)).unlink()
        raise


def is_intact(path: Path) -> bool:
    """Whether a file of pieces, if it is there, is what was written."""
    try:
        digest, _, data = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return True
    return digest == str(Digest.of(data)).encode()


def _read(lease: Lease, diff_id: Digest, terms: str) -> tuple[dict[str, Piece], int] | None:
    lease.pin(file_name(diff_id))
    try:
        digest, _, data = (lease.store / file_name(diff_id)).read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != str(Digest.of(data)).encode():
        return None
    fields = json.loads(data)
    if fields.get("format") != _FORMAT or fields["terms"] != terms:
        return None
    return {path: Piece(*piece) for path, piece in fields["pieces"].items()}, fields["size"]
