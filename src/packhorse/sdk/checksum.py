"""Checksums as the world spells them: hexadecimal, with an algorithm before it, or as subresource integrity.

Called by `sdk.download` and `sdk.dependencies`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError

_BITS = {64: "sha256", 96: "sha384", 128: "sha512"}
"""Hexadecimal digits to the algorithm; weaker ones verify nothing."""

_STRENGTH = ("sha256", "sha384", "sha512")
_HEX = re.compile(r"(?:(sha256|sha384|sha512)[:_])?([0-9a-fA-F]{64,128})")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Checksum:
    """An algorithm and lower-case hexadecimal digits."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Checksum:
        """Reads `<hex>`, `sha256:<hex>` or `sha512-<base64>`, of which the strongest when there are several.

        Raises FormatError for anything else, SHA-1 and MD5 among it.
        """
        found = _HEX.fullmatch(text.strip())
        if found:
            algorithm = found[1] or _BITS.get(len(found[2]), "")
            if _BITS.get(len(found[2])) == algorithm:
                return cls(algorithm, found[2].lower())
        known = [each for each in map(_integrity, text.split()) if each is not None]
        if not known or found:
            raise FormatError(
                f"not a checksum: {text[:200]!r}",
                why="expected sha256, sha384 or sha512, in hexadecimal or as npm's integrity",
            )
        return max(known, key=lambda each: _STRENGTH.index(each.algorithm))

    @classmethod
    def of(cls, path: Path, algorithm: str = "sha256") -> Checksum:
        """The checksum of a file's content; OSError."""
        total = hashlib.new(algorithm)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
        return cls(algorithm, total.hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def _integrity(token: str) -> Checksum | None:
    algorithm, dash, value = token.partition("?")[0].partition("-")
    if not dash or algorithm not in _STRENGTH:
        return None
    try:
        digits = base64.b64decode(value, validate=True).hex()
    except (binascii.Error, ValueError):
        return None
    return Checksum(algorithm, digits) if _BITS.get(len(digits)) == algorithm else None
