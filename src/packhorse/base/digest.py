"""Content digests as OCI writes them (image-spec, descriptor.md "Digests"). Every folder uses them."""

from __future__ import annotations

import hashlib
import re
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError

_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 digest; `hex` has 64 lower-case digits. Other algorithms are refused."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `sha256:<64 lower-case hex digits>`; raises FormatError for anything else."""
        match = _SHA256.fullmatch(text)
        if match is None:
            raise FormatError(
                f"not a digest: {text[:100]!r}", why="expected sha256: and 64 lower-case hexadecimal digits"
            )
        return cls(match[1])

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Hashes `data`."""
        return cls(hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def short(self) -> str:
        """The first twelve digits, for messages."""
        return self.hex[:12]
