"""Removing trees from the store, whoever their files belong to.

Called by whoever has something to remove, and by the process that does so afterwards (`remainder`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from packhorse.base import entries, userns
from packhorse.store import errand, merge
from packhorse.store.fault import faults
from packhorse.store.lease import Lease


def remove(path: Path, lease: Lease) -> int:
    """Removes a file or a tree, following nothing, and answers how many bytes of disk that freed; StoreError.

    A missing one is no error. What belongs to a user's subordinate ids is removed by a child that acts as the
    root of these ids. What cannot be removed is left to the next `sweep`.
    """
    try:
        freed = _remove(path, lease)
    except BaseException:
        lease.left.add(path)
        raise
    lease.left.discard(path)
    return freed


def discard(path: Path, lease: Lease) -> int:
    """As `remove`, of what a command needs no more; with no more of the lease's patience than there is.

    What that does not suffice for, or takes another's rights, is `left` to who closes the lease; it is half
    gone, and counts nothing.
    """
    if lease.patience is None:
        return remove(path, lease)
    lease.left.add(path)
    freed = 0
    with suppress(entries.Unfinished, OSError), lease.patience.running():
        with merge.directory(path.parent) as parent:
            freed = entries.remove(parent, path.name, patience=lease.patience)
        lease.left.discard(path)
    return freed


def _remove(path: Path, lease: Lease) -> int:
    with faults(path):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with faults(path):
            try:
                return entries.remove(parent, path.name)
            except PermissionError:
                if os.geteuid() == 0:
                    raise
        with userns.make(userns.choose()) as namespace:
            answer = errand.run(
                ["remove", str(parent), path.name],
                where=path,
                namespace=namespace,
                lease=lease,
                directories=[parent],
            )
            return int(answer["freed"])
    finally:
        os.close(parent)
