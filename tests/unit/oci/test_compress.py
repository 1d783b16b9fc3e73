"""Layers are compressed, decompressed and checked as they stream."""

import gzip as stdlib_gzip
import hashlib
import random
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from packhorse.base.digest import Digest
from packhorse.errors import FormatError
from packhorse.oci.compress import CHUNK, decompress, drain, gzip, is_compressed, stored_layer, tee, verify
from packhorse.oci.place import Layer
from packhorse.oci.types import Descriptor, MediaType

MIXED = random.Random(7).randbytes(CHUNK) + b"packhorse " * 300_000 + b"end"


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def test_gzip_is_one_member_a_mebibyte_with_a_constant_header() -> None:
    data = b"".join(gzip([MIXED]))
    members = 0
    while data:
        assert data[:10] == bytes.fromhex("1f8b08000000000004ff")
        member = zlib.decompressobj(wbits=31)
        plain = member.decompress(data)
        assert plain == MIXED[members * CHUNK :][:CHUNK]
        data = member.unused_data
        members += 1
    assert members == len(MIXED) // CHUNK + 1


def test_gzip_depends_on_the_bytes_alone_and_is_pinned() -> None:
    whole = b"".join(gzip([MIXED]))
    assert whole == b"".join(gzip(cut(MIXED, 4097)))
    # The same on every processor; another value changes every user's layer digests: one for the changelog.
    assert (
        hashlib.sha256(whole).hexdigest()
        == "e8b758940cba84e4905f6777c63217f2508d15bd46e7cd12e2d8a6d1748c8889"
    )


def test_nothing_compresses_to_one_empty_member() -> None:
    assert stdlib_gzip.decompress(b"".join(gzip([]))) == b""
    assert b"".join(gzip([b""])) == b"".join(gzip([]))


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_what_was_compressed_comes_back(data: bytes, size: int) -> None:
    assert b"".join(decompress(gzip(cut(data, size)))) == data


def test_a_new_layer_is_read_once_and_described() -> None:
    passes = 0

    def tar() -> Iterator[bytes]:
        nonlocal passes
        passes += 1
        return cut(MIXED, 10_000)

    stored = bytearray()
    layer = tee(Layer(tar), stored.extend)
    assert passes == 1
    assert (layer.diff_id, layer.size) == (Digest.of(MIXED), len(MIXED))
    assert layer.descriptor == Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(bytes(stored)), len(stored))
    assert stdlib_gzip.decompress(stored) == MIXED


def test_a_layer_that_is_not_what_it_was_said_to_be_is_refused() -> None:
    with pytest.raises(FormatError, match="not what they should be"):
        tee(Layer(lambda: iter([b"x"]), Digest.of(b"y")), lambda chunk: None)


def test_a_layer_can_be_drained_as_it_is() -> None:
    out = bytearray()
    layer = drain(Layer(lambda: cut(MIXED, 999)), out.extend)
    assert (layer.diff_id, layer.size, layer.descriptor) == (Digest.of(MIXED), len(MIXED), None)
    assert out == MIXED


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": stdlib_gzip.compress,
    "gzip of tiny members": lambda data: b"".join(stdlib_gzip.compress(part) for part in cut(data, 1 << 15)),
    "zstd": zstandard.compress,
    "zstd of several frames": lambda data: b"".join(zstandard.compress(part) for part in cut(data, 1 << 18)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [3, 1 << 16, 1 << 22])
def test_every_form_of_a_layer_is_told_by_its_first_bytes(form: str, size: int) -> None:
    data = MIXED if size > 3 else MIXED[-20_000:]
    chunks = list(decompress(cut(FORMS[form](data), size)))
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= max(CHUNK, size)


@pytest.mark.parametrize("form", ["gzip", "gzip of tiny members", "zstd"])
def test_a_broken_or_short_layer_is_refused(form: str) -> None:
    blob = FORMS[form](MIXED)
    descriptor = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(blob), len(blob))
    short = stored_layer(
        lambda: cut(blob[:-9], 1 << 16), descriptor, Digest.of(MIXED), where="reg.example/app"
    )
    for chunks in (short.tar(), short.blob() if short.blob else iter(())):
        with pytest.raises(FormatError) as caught:
            list(chunks)
        assert f"the layer {descriptor.digest} of reg.example/app" in caught.value.why
        assert "again" in caught.value.fix
    broken = bytearray(blob)
    broken[len(blob) // 2] ^= 1
    damaged = stored_layer(lambda: cut(bytes(broken), 1 << 16), descriptor, Digest.of(MIXED))
    for chunks in (short.tar(), damaged.tar(), decompress([blob, b"trailing"])):
        with pytest.raises(FormatError):
            for _ in chunks:
                pass


def test_a_bomb_is_stopped_early() -> None:
    for bomb in (stdlib_gzip.compress(bytes(64 << 20), 1), zstandard.compress(bytes(64 << 20))):
        taken = 0
        with pytest.raises(FormatError, match="too large"):
            for chunk in decompress([bomb], limit=4 << 20):
                taken += len(chunk)
        assert taken <= 4 << 20


def test_a_stored_layer_is_checked_in_both_forms() -> None:
    blob = stdlib_gzip.compress(b"tar")
    descriptor = Descriptor(MediaType.OCI_LAYER_GZIP, Digest.of(blob), len(blob))
    layer = stored_layer(lambda: iter([blob]), descriptor, Digest.of(b"tar"))
    assert layer.blob is not None
    assert b"".join(layer.blob()) == blob
    assert b"".join(layer.tar()) == b"tar"
    with pytest.raises(FormatError):
        list(stored_layer(lambda: iter([blob]), descriptor, Digest.of(b"other")).tar())
    with pytest.raises(FormatError):
        list(stored_layer(lambda: iter([blob + b"x"]), descriptor, Digest.of(b"tar")).tar())


@pytest.mark.parametrize(("data", "size"), [(b"abcd", 3), (b"ab", 3), (b"abd", 3), (b"abd", None)])
def test_bytes_of_another_length_or_digest_are_refused(data: bytes, size: int | None) -> None:
    assert list(verify([b"ab", b"c"], Digest.of(b"abc"), 3)) == [b"ab", b"c"]
    with pytest.raises(FormatError):
        list(verify(cut(data, 2), Digest.of(b"abc"), size))


@pytest.mark.parametrize("kind", [0x50, 0x5F])
def test_zstd_may_begin_with_a_frame_that_is_passed_over(kind: int) -> None:
    passed = bytes((kind,)) + b"\x2a\x4d\x18\x04\x00\x00\x00data"
    assert b"".join(decompress([passed + zstandard.compress(MIXED)])) == MIXED
    assert is_compressed(passed)
