"""Knows which trees of the store can be trusted after a crash of the machine, and writes trees to the disk.

packhorse does not fsync(2) the files of a tree: 43,000 calls would take longer than a build. So it trusts a
tree until the machine restarts. Afterwards files of the tree may exist and be empty, so it trusts only a tree
that was complete before a syncfs(2). `settled.json` records the time of the last syncfs(2) for each run of
the machine (boot ID). The file `unsettled` exists while some tree has not been synced.

`snapshots` and `roots` write the stamp of each tree into its record. `Store` starts the syncs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from packhorse.base.dataclass import dataclass
from packhorse.linux.processes import accept_signals, detach, python_command, start
from packhorse.linux.syscalls import sync_filesystem
from packhorse.store.leases import Lease, map_errors, open_directory, read, write

_BOOTS = 100  # runs of the machine that `settled.json` records; older trees count as not synced
_WRITEBACK = 35.0  # seconds after which the kernel has written nearly everything without a sync


@dataclass(frozen=True, slots=True)
class TreeStamp:
    """Identifies a tree by the inode and change time (ns) of its directory, which a copy does not share.

    `boot` is the ID of the machine's run in which the tree was made, `made` the time in ns since that start.
    """

    inode: int
    changed: int
    boot: str
    made: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self | None:
        """Reads the stamp in a record; None if it has none."""
        inode, changed, boot, made = (fields.get(name) for name in cls.__slots__)
        if isinstance(inode, int) and isinstance(changed, int) and isinstance(made, int):
            return cls(inode, changed, boot, made) if isinstance(boot, str) else None
        return None

    def fields(self) -> dict[str, Any]:
        """The fields that this stamp adds to a record."""
        return {name: getattr(self, name) for name in self.__slots__}


class TreeSync:
    """Stamps the trees of a store, checks stamps, and syncs the trees' file system."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._marker = lease.store / "unsettled"
        self._notes = lease.store / "settled.json"

    def stamp(self, directory: Path) -> TreeStamp:
        """Makes the stamp of a tree that is complete and at its final path. Raises OSError."""
        status = directory.lstat()
        stamp = TreeStamp(status.st_ino, status.st_ctime_ns, _boot(), _now())
        # Make the marker last: a sync that removes it begins after this tree was written.
        os.close(os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return stamp

    def matches(self, directory: Path, stamp: TreeStamp) -> bool:
        """Whether `directory` is the tree of the stamp, and no crash can have damaged it since."""
        try:
            status = directory.lstat()
        except OSError:
            return False
        if (status.st_ino, status.st_ctime_ns) != (stamp.inode, stamp.changed):
            return False
        return stamp.boot == _boot() or stamp.made <= self._read_synced().get(stamp.boot, -1)

    def sync(self) -> None:
        """Waits until all trees are on the disk, and records it. Raises StoreError.

        After a large build this takes seconds.
        """
        with map_errors(self._marker):
            self._marker.unlink(missing_ok=True)
        now = _now()
        with map_errors(self._lease.store), open_directory(self._lease.store) as directory:
            sync_filesystem(directory)
        before = [(boot, made) for boot, made in self._read_synced().items() if boot != _boot()]
        write(self._lease, self._notes, dict([*before[-_BOOTS + 1 :], (_boot(), now)]))

    def sync_in_background(self) -> None:
        """Starts a process that calls `sync`, if there are unsynced trees, and does not wait for it.

        It waits with that until the kernel has written most of them itself. Raises StoreError.
        """
        try:
            age = time.time() - self._marker.stat().st_mtime
        except OSError:
            return
        if 0 <= age < _WRITEBACK or self._lease.descriptor is None:
            return
        with map_errors(self._marker):
            detach(start([*python_command("packhorse.store.tree_sync"), str(self._lease.store)]))

    def _read_synced(self) -> dict[str, int]:
        notes = read(self._notes) or {}
        return {boot: made for boot, made in notes.items() if isinstance(made, int)}


def main(words: list[str]) -> int:
    """Syncs the store at the path `words[0]`. `sync_in_background` starts this process."""
    accept_signals()
    lease = Lease.acquire(Path(words[0]))
    try:
        TreeSync(lease).sync()
    finally:
        lease.close()
    return 0


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
