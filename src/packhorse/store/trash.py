"""Removes files and trees from the store, whatever user they belong to.

A command need not wait for a removal: a process that outlives the command does the rest. That process takes
over the lease under which the command renamed the files, so no other command removes them meanwhile. If the
process is killed, the lease is no longer held, and the next `sweep` removes the files.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from packhorse.errors import HostError, StoreError
from packhorse.fs import overlay, walk
from packhorse.linux import userns
from packhorse.linux.processes import accept_signals, detach, python_command, start
from packhorse.store import userns_jobs
from packhorse.store.leases import Lease, find_unfinished, map_errors, open_directory


def remove(path: Path, lease: Lease) -> int:
    """Removes a file or a tree, through no link; returns the bytes of disk that this freed.

    A missing path is no error. If files belong to a user's subordinate ids, a child process removes them as
    root of these ids. If the removal fails, the next `sweep` tries again. Raises StoreError, HostError.
    """
    try:
        freed = _remove(path, lease)
    except BaseException:
        lease.trash.add(path)
        raise
    lease.trash.discard(path)
    return freed


def trash(path: Path, lease: Lease) -> int:
    """Removes as `remove` does, within the lease's `removal_budget`, what a command no longer needs.

    If the budget runs out or permissions are missing, the rest stays in `lease.trash`, for whoever closes the
    lease, and the answer is 0 bytes.
    """
    if lease.removal_budget is None:
        return remove(path, lease)
    lease.trash.add(path)
    freed = 0
    with suppress(walk.BudgetExceeded, OSError), lease.removal_budget.count_time():
        with overlay.open_directory(path.parent) as parent:
            freed = walk.remove(parent, path.name, budget=lease.removal_budget)
        lease.trash.discard(path)
    return freed


def _remove(path: Path, lease: Lease) -> int:
    with open_directory(path.parent) as parent:
        with map_errors(path):
            try:
                return walk.remove(parent, path.name)
            except PermissionError:
                if os.geteuid() == 0:
                    raise
        with userns.make_namespace(userns.choose_map()) as namespace:
            answer = userns_jobs.run(
                ["remove", str(parent), path.name],
                where=path,
                namespace=namespace,
                lease=lease,
                directories=[parent],
            )
            return int(answer["freed"])


_PURPOSE = "aside"

_NICENESS = 19
"""The niceness of the process that removes files; the disk also serves it last (ionice(1))."""


def open_trash_lease(store: Path) -> Lease:
    """Makes a lease for files that are renamed to be removed. Raises StoreError."""
    return Lease.acquire(store, purpose=_PURPOSE)


def remove_in_background(own: Lease) -> None:
    """Starts a process that removes the lease's `trash`, and does not wait for it.

    If no process can be started, the next `sweep` removes the files.
    """
    if own.trash and own.descriptor is not None:
        words = python_command("packhorse.store.trash", packages=True)
        with suppress(OSError):
            words += [str(own.store), own.name, str(own.descriptor)]
            detach(start(words, pass_fds=[own.descriptor]))


def wait_for_removal(store: Path) -> None:
    """Waits until no process of `remove_in_background` works in the store. Raises StoreError."""
    with map_errors(store):
        for path in (store / "leases").glob(f"*-{_PURPOSE}"):
            with suppress(FileNotFoundError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)


def main(words: list[str]) -> int:
    """Removes the trash of a lease. `words` are the store, the lease's name, and its descriptor."""
    store, name, descriptor = words
    accept_signals()
    os.nice(_NICENESS)
    own = Lease(Path(store), name, int(descriptor))
    try:
        with map_errors(own.store):
            paths = [path for path, owner in find_unfinished(own.store) if owner == name]
        for path in paths:
            with suppress(StoreError, HostError):
                remove(path, own)
    finally:
        own.close()
    return 0
