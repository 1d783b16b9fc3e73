"""Inputs for fuzz targets as hypothesis makes them: seeds that were cut, joined and overwritten."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as some

_INTERESTING = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"-1",
    b"999999999999999999999",
    b"..",
    b"/",
    b'"',
    b"{",
    b"[" * 200,
    b"=",
    b"\n",
)
_PIECES = some.binary(max_size=12) | some.sampled_from(_INTERESTING)


@some.composite
def mutated(draw: some.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few places overwritten, removed or repeated."""
    data = draw(some.sampled_from(seeds))
    for _ in range(draw(some.integers(0, 6))):
        at = draw(some.integers(0, len(data)))
        count = draw(some.integers(0, 16) | some.integers(0, 600))
        piece = draw(_PIECES | some.just(data[at : at + count] * 2))
        data = data[:at] + piece + data[at + count :]
    return data
