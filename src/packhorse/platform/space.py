"""Says early that a disk is too small for what is about to fill it.

Else that shows after minutes of downloading or compiling. Called by `building` and `default_builder`.
"""

from __future__ import annotations

import os
from pathlib import Path

from packhorse.errors import StoreError


def free(place: Path) -> int:
    """The bytes that this user may still write to the file system of a directory."""
    room = os.statvfs(place)
    return room.f_bavail * room.f_frsize


def require(place: Path, needed: int, *, what: str) -> None:
    """Raises StoreError where there is less room than `what` certainly needs."""
    there = free(place)
    if there < needed:
        raise StoreError(
            f"there is too little room for {what}",
            why=f"{format_bytes(there)} are free at {place}, and it needs {format_bytes(needed)}",
            fix="free some, for instance with packhorse gc, or put the store elsewhere (PACKHORSE_HOME)",
            check="disk",
        )


def format_bytes(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
