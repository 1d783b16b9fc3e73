"""What a running command uses of the store, and the files it has not finished.

Every open `Store` holds one `Lease`: a file below `leases/`, locked as long as the process lives, whose lines
name what it uses as paths inside the store. `gc` reads the lines of the leases that are held and removes what
the others left behind. Unfinished things carry their lease's name, so a killed process leaves nothing that is
mistaken for a whole one.

`gate` is the one lock of the store: shared for the moment a line is added, exclusive while names change or
`gc` chooses. A line is added before the thing is looked for, so what is found afterwards stays.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Self

from packhorse.base.digest import Digest
from packhorse.store.fault import faults
from packhorse.store.record import locked, make_directory


class Lease:
    """The hold of one open store on what it uses; `scratch` is its own directory for unfinished files."""

    def __init__(self, store: Path, name: str, descriptor: int) -> None:
        self.store = store
        self.name = name
        self.scratch = store / "scratch" / name
        self._descriptor = descriptor
        self._pinned: set[str] = set()
        self._lock = threading.Lock()

    @classmethod
    def take(cls, store: Path) -> Self:
        """Makes and locks a new lease in the store at `store`; raises StoreError."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        path = store / "leases" / name
        # The gate keeps gc from taking the new file for a dead one before it is locked.
        with locked(gate(store), shared=True), faults(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            make_directory(store / "scratch" / name)
        return cls(store, name, descriptor)

    def pin(self, *paths: str) -> None:
        """Keeps what is, or will be, at these paths inside the store from `gc` until the lease ends."""
        with self._lock:
            new = [path for path in paths if path not in self._pinned]
            if not new:
                return
            with locked(gate(self.store), shared=True), faults(self.store):
                os.write(self._descriptor, "".join(f"{path}\n" for path in new).encode())
            self._pinned.update(new)

    def lock(self, kind: str, digest: Digest) -> AbstractContextManager[None]:
        """Holds the lock for making what `digest` names, against other threads and processes.

        There are 64 locks of a kind for all digests: who holds one must not take another of that kind. Kinds
        are taken in the order "tree", "layer", "kept".
        """
        return locked(self.store / "locks" / f"{kind}-{int(digest.hex[:2], 16) % 64:02d}")

    def temporary(self, directory: Path | None = None) -> Path:
        """A name nobody else uses, in `directory` (as a name beginning with a dot) or in `scratch`."""
        if directory is None:
            return self.scratch / secrets.token_hex(8)
        return directory / f".{self.name}.{secrets.token_hex(4)}"

    def close(self) -> None:
        """Ends the lease; what is left in `scratch` is `gc`'s."""
        with suppress(OSError):
            self.scratch.rmdir()
        (self.store / "leases" / self.name).unlink(missing_ok=True)
        os.close(self._descriptor)


def gate(store: Path) -> Path:
    """The lock file that orders leases, names and `gc`."""
    return store / "gate"


def held(store: Path) -> dict[str, set[str]]:
    """The leases that are held, by name, with the paths each pins; files of dead ones are removed.

    The caller holds the gate exclusively.
    """
    leases: dict[str, set[str]] = {}
    for path in sorted((store / "leases").iterdir()):
        pins = _pins(path)
        if pins is None:
            path.unlink(missing_ok=True)
        else:
            leases[path.name] = pins
    return leases


def owner_of(name: str) -> str:
    """The lease that an unfinished thing named by `Lease.temporary(directory)` belongs to."""
    return name[1:].rpartition(".")[0]


def _pins(path: Path) -> set[str] | None:
    """The lines of a lease file, None when nobody holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return set(file.read().splitlines())
    return None
