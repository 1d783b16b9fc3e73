"""What a command has put aside to be removed and does not wait for: removed by a process that outlives it.

It takes over the lease under which things were put aside, so that nobody sweeps them away meanwhile; if it is
killed, they are of a lease that nobody holds, and the next `sweep` goes on. Called by store.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from packhorse.base import orphan, proc
from packhorse.errors import HostError, StoreError
from packhorse.store import removal
from packhorse.store.fault import map_errors
from packhorse.store.lease import Lease, find_unfinished

_PURPOSE = "aside"

_LEAST = 19
"""The niceness of what nobody waits for; the disk serves it last then, too (ionice(1))."""


def open_trash_lease(store: Path) -> Lease:
    """A new lease to put things aside under; raises StoreError."""
    return Lease.acquire(store, purpose=_PURPOSE)


def remove_in_background(own: Lease) -> None:
    """Has what the lease has `left` removed by a process, which goes on when this one is over.

    Where none can be started, it is the next `sweep`'s.
    """
    if own.trash and own.descriptor is not None:
        words = proc.python_command("packhorse.store.remainder", packages=True)
        with suppress(OSError):
            words += [str(own.store), own.name, str(own.descriptor)]
            orphan.detach(orphan.start(words, pass_fds=[own.descriptor]))


def wait_for_removal(store: Path) -> None:
    """Returns when no such process works in the store any more; raises StoreError."""
    with map_errors(store):
        for path in (store / "leases").glob(f"*-{_PURPOSE}"):
            with suppress(FileNotFoundError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH)


def main(words: list[str]) -> int:
    """Removes what was put aside in a store under the lease of that name, whose descriptor it has."""
    store, name, descriptor = words
    orphan.accept_signals()
    os.nice(_LEAST)
    own = Lease(Path(store), name, int(descriptor))
    try:
        with map_errors(own.store):
            paths = [path for path, owner in find_unfinished(own.store) if owner == name]
        for path in paths:
            with suppress(StoreError, HostError):
                removal.remove(path, own)
    finally:
        own.close()
    return 0
