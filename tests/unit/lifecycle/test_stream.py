"""Chunks read as one stream."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from packhorse.lifecycle.stream import ChunkReader


@given(st.lists(st.binary(max_size=5)), st.lists(st.integers(1, 7), min_size=1))
def test_any_reads_give_the_chunks_one_after_the_other(chunks: list[bytes], sizes: list[int]) -> None:
    stream = io.BufferedReader(ChunkReader(iter(chunks)), buffer_size=3)
    found = b""
    index = 0
    while piece := stream.read(sizes[index % len(sizes)]):
        found += piece
        index += 1
    assert found == b"".join(chunks)
    assert stream.read(1) == b""
