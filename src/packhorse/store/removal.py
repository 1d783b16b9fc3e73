"""Removing trees from the store, whoever their files belong to.

Called by whoever has something to remove, and by the process that does so afterwards (`remainder`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from packhorse.base import entries, userns
from packhorse.store import errand, merge
from packhorse.store.fault import map_errors
from packhorse.store.lease import Lease


def remove(path: Path, lease: Lease) -> int:
    """Removes a file or a tree, following nothing, and answers how many bytes of disk that freed; StoreError.

    A missing one is no error. What belongs to a user's subordinate ids is removed by a child that acts as the
    root of these ids. What cannot be removed is left to the next `sweep`.
    """
    try:
        freed = _remove(path, lease)
    except BaseException:
        lease.trash.add(path)
        raise
    lease.trash.discard(path)
    return freed


def trash(path: Path, lease: Lease) -> int:
    """As `remove`, of what a command needs no more; with no more of the lease's patience than there is.

    What that does not suffice for, or takes another's rights, is `left` to who closes the lease; it is half
    gone, and counts nothing.
    """
    if lease.removal_budget is None:
        return remove(path, lease)
    lease.trash.add(path)
    freed = 0
    with suppress(entries.Unfinished, OSError), lease.removal_budget.running():
        with merge.open_directory(path.parent) as parent:
            freed = entries.remove(parent, path.name, patience=lease.removal_budget)
        lease.trash.discard(path)
    return freed


def _remove(path: Path, lease: Lease) -> int:
    with map_errors(path):
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with map_errors(path):
            try:
                return entries.remove(parent, path.name)
            except PermissionError:
                if os.geteuid() == 0:
                    raise
        with userns.make_namespace(userns.choose_map()) as namespace:
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
