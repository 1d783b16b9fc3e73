"""Which trees of a store are what their records say, and on the disk for certain.

Nothing is flushed file by file: 43,000 calls of fsync(2) would take longer than a build. So a tree is
believed while the machine runs on which it was made; after a restart, when its files may be there and empty,
only if a syncfs(2) had passed since. `settled.json` says for each run of the machine (its boot ID) until when
that is so, and `unsettled` is there while there is something to do. Called by kept, trees and store.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from packhorse.base import orphan, proc
from packhorse.base.dataclass import dataclass
from packhorse.store import record
from packhorse.store.fault import map_errors
from packhorse.store.lease import Lease

_BOOTS = 100  # what is remembered; trees from before are looked at anew
_WRITEBACK = 35.0  # seconds after which the kernel has written by itself nearly all that a command left to it


@dataclass(frozen=True, slots=True)
class TreeStamp:
    """What tells a tree from every other: inode and change time (ns) of its directory, which no copy has.

    `boot` is the run of the machine in which it was made, `made` when that was, in ns since its start.
    """

    inode: int
    changed: int
    boot: str
    made: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self | None:
        """Reads a stamp out of a record; None when there is none."""
        inode, changed, boot, made = (fields.get(name) for name in cls.__slots__)
        if isinstance(inode, int) and isinstance(changed, int) and isinstance(made, int):
            return cls(inode, changed, boot, made) if isinstance(boot, str) else None
        return None

    def fields(self) -> dict[str, Any]:
        """What a record has of this stamp."""
        return {name: getattr(self, name) for name in self.__slots__}


class Disk:
    """What is known of a store's trees and the disk below them."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._marker = lease.store / "unsettled"
        self._notes = lease.store / "settled.json"

    def stamp(self, directory: Path) -> TreeStamp:
        """The stamp of a tree that is complete and has its name; raises OSError."""
        status = directory.lstat()
        stamp = TreeStamp(status.st_ino, status.st_ctime_ns, _boot(), _now())
        # Last, so that a syncfs that takes the mark away has begun after everything of the tree was written.
        os.close(os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return stamp

    def matches(self, directory: Path, stamp: TreeStamp) -> bool:
        """Whether `directory` is the tree that the stamp was made of, with all that was written to it."""
        try:
            status = directory.lstat()
        except OSError:
            return False
        if (status.st_ino, status.st_ctime_ns) != (stamp.inode, stamp.changed):
            return False
        return stamp.boot == _boot() or stamp.made <= self._read_synced().get(stamp.boot, -1)

    def sync(self) -> None:
        """Waits until all trees are on the disk (seconds after a large build), and notes it; StoreError."""
        with map_errors(self._marker):
            self._marker.unlink(missing_ok=True)
        now = _now()
        sync_filesystem(self._lease.store)
        before = [(boot, made) for boot, made in self._read_synced().items() if boot != _boot()]
        record.write(self._lease, self._notes, dict([*before[-_BOOTS + 1 :], (_boot(), now)]))

    def sync_in_background(self) -> None:
        """Starts a process that settles, for which nobody waits, once the kernel has written most itself."""
        try:
            age = time.time() - self._marker.stat().st_mtime
        except OSError:
            return
        if 0 <= age < _WRITEBACK or self._lease.descriptor is None:
            return
        with map_errors(self._marker):
            orphan.detach(
                orphan.start([*proc.python_command("packhorse.store.disk"), str(self._lease.store)])
            )

    def _read_synced(self) -> dict[str, int]:
        notes = record.read(self._notes) or {}
        return {boot: made for boot, made in notes.items() if isinstance(made, int)}


def sync_filesystem(directory: Path) -> None:
    """Puts what was written to the file system of `directory` on the disk (syncfs(2)); raises StoreError."""
    with map_errors(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)


def main(words: list[str]) -> int:
    """Settles the store at the path given; started by `sync_in_background`, whose command may be
    over by now.
    """
    orphan.accept_signals()
    lease = Lease.acquire(Path(words[0]))
    try:
        Disk(lease).sync()
    finally:
        lease.close()
    return 0


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
