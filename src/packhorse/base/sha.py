"""SHA-1 and SHA-256 of the few kilobytes that a buildpack hashes, without OpenSSL, which takes 3 ms to load.

The interpreter has its own of both, which is slower by far: what is large goes to `hashlib`, and so does all
where an interpreter was made without.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LARGE = 1 << 19


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal digits."""
    make = _own("_sha2" if sys.version_info >= (3, 12) else "_sha256", "sha256", data)
    return str(make(data).hexdigest())


def sha1(data: bytes) -> bytes:
    """The SHA-1 of `data`, for names that are made of it and not for safety."""
    return bytes(_own("_sha1", "sha1", data)(data, usedforsecurity=False).digest())


def _own(module: str, name: str, data: bytes) -> Callable[..., Any]:
    try:
        found = __import__(module if len(data) < _LARGE else "hashlib")
    except ImportError:
        found = __import__("hashlib")
    make: Callable[..., Any] = getattr(found, name)
    return make
