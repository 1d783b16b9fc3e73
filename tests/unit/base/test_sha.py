"""Digests without OpenSSL: hashlib's, of little and of much, with and without the interpreter's own."""

import hashlib
import sys

import pytest

from packhorse.base import sha


@pytest.mark.parametrize("size", [0, 1, 1000, (1 << 19) - 1, 1 << 19, 3 << 20])
@pytest.mark.parametrize("own", [True, False])
def test_it_is_the_digest_that_hashlib_makes(size: int, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"x" * size
    for name in () if own else ("_sha1", "_sha2", "_sha256"):
        monkeypatch.setitem(sys.modules, name, None)
    assert sha.sha256(data) == hashlib.sha256(data).hexdigest()
    assert sha.sha1(data) == hashlib.sha1(data, usedforsecurity=False).digest()
