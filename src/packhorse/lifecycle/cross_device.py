"""Recognizes a program that cannot live on an overlay, by what it prints; called by `build`.

rename(2) of a directory that a kept layer, or the source, already had answers EXDEV on an overlay, as if it
led to another file system. Most programs copy then; one that does not fails, and says what the system said.
"""

from __future__ import annotations

import re

_WORDS = re.compile(
    rb"cross-device link"  # the C library, and with it Go, Python, Rust, Ruby, Java, npm
    rb"|\bEXDEV\b"  # Node.js, and what prints the name of an error
    rb"|crosses devices",  # Rust's own name of the kind
    re.IGNORECASE,
)
_LONGEST = 32


class CrossDeviceDetector:
    """Looks for the words in what a program prints, which comes in pieces of any length."""

    def __init__(self) -> None:
        self.found = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Looks at the next piece."""
        heard = self._tail + data
        self.found = self.found or _WORDS.search(heard) is not None
        self._tail = heard[-_LONGEST:]
