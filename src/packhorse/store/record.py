"""Small JSON files that are replaced whole: the store's indexes, and what it knows of its trees and layers.

Called by images, facts, kept, trees, disk and overlay. What the fields mean is theirs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packhorse.store.fault import map_errors
from packhorse.store.lease import Lease


def read(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None when there is no such file or it is not whole.

    Such a file is only ever replaced by rename(2), so one that does not parse is damage: it counts as absent,
    and whoever needs what it said makes that again. Raises StoreError when it cannot be read.
    """
    with map_errors(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def list_by_time(directory: Path) -> list[tuple[float, Path]]:
    """The records in a directory with the times at which they were written, the oldest first.

    Other commands may remove some meanwhile, which are none then. Raises OSError.
    """
    found = []
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def write(lease: Lease, path: Path, fields: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replaces `path` by a JSON object, at once; raises StoreError.

    What is not `durable` may be gone or empty after a crash of the machine, and then counts as absent.
    """
    write_bytes(lease, path, json.dumps(fields, indent=1).encode() + b"\n", durable=durable)


def write_bytes(lease: Lease, path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces `path` by `data`, as `write` does."""
    temporary = lease.temporary()
    with map_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
