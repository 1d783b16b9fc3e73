"""④ Where an application's directories are in the layer that it was packed to: `layers/<diff ID>.pieces`.

Called by harvest and gc. When a piece may stand for a directory again is `layers.pieces`'.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from packhorse.base.digest import Digest
from packhorse.layers.pieces import Piece, Read
from packhorse.store import record
from packhorse.store.blobs import Blobs
from packhorse.store.fault import faults
from packhorse.store.lease import Lease

Former = tuple[Mapping[str, Piece], Read]
"""The pieces of a layer, and what reads its tar."""


def name_of(diff_id: Digest) -> str:
    """The file of a layer's pieces, in a store."""
    return f"layers/{diff_id.hex}.pieces"


def write(lease: Lease, diff_id: Digest, terms: str, pieces: Mapping[str, Piece]) -> None:
    """Keeps the pieces of a layer that was packed with these `terms`; raises StoreError.

    Their digest stands before them: a wrong number in it would be a wrong image.
    """
    lease.pin(name_of(diff_id))
    data = json.dumps({"terms": terms, "pieces": pieces}).encode()
    path = lease.store / name_of(diff_id)
    record.write_bytes(lease, path, f"{Digest.of(data)}\n".encode() + data, durable=False)


@contextmanager
def former(lease: Lease, diff_id: Digest, terms: str) -> Iterator[Former]:
    """The pieces of a layer, none where they, or its tar, are not here, or were packed with other terms.

    Raises StoreError, at the end of the block, where the tar is damaged: what was made with it is wrong.
    """
    blobs = Blobs(lease)
    pieces = _read(lease, diff_id, terms) if blobs.size(diff_id) is not None else {}
    if not pieces:
        yield NOTHING
        return
    with blobs.parts(diff_id) as read:
        yield pieces, read


def _read(lease: Lease, diff_id: Digest, terms: str) -> dict[str, Piece]:
    lease.pin(name_of(diff_id))
    path = lease.store / name_of(diff_id)
    with faults(path):
        try:
            digest, _, data = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return {}
    if digest != str(Digest.of(data)).encode():
        return {}
    fields = json.loads(data)
    if fields["terms"] != terms:
        return {}
    return {path: Piece(*piece) for path, piece in fields["pieces"].items()}


def _nothing(start: int, end: int) -> Iterator[bytes]:
    raise AssertionError(f"there is no tar to read {start} to {end} of")


NOTHING: Former = ({}, _nothing)
