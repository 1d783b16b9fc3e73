"""What a tree's record says so that the tree is recognised, and is not trusted before it is on the disk.

Nothing is flushed file by file: 43,000 calls of fsync(2) would take longer than the build. So until a
syncfs(2) has passed a record also names the boot: after a crash of the machine the tree may be there and its
files empty. Called by kept, trees and store.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from packhorse.store import record
from packhorse.store.fault import faults


@dataclass(frozen=True, slots=True)
class Stamp:
    """The inode of a tree's directory; while the tree may not be on the disk also its device and the boot's
    ID.

    Device numbers change between boots on many systems, so a settled tree is known by its inode alone.
    """

    inode: int
    device: int = 0
    boot: str = ""

    @classmethod
    def of(cls, directory: Path) -> Self:
        """The stamp of a tree that was just made; raises OSError."""
        status = directory.lstat()
        return cls(status.st_ino, status.st_dev, _boot())

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self | None:
        """Reads a stamp out of a record; None when there is none."""
        inode, device, boot = fields.get("inode"), fields.get("device", 0), fields.get("boot", "")
        if not isinstance(inode, int) or not isinstance(device, int) or not isinstance(boot, str):
            return None
        return cls(inode, device, boot)

    def fields(self) -> dict[str, Any]:
        """What a record has of this stamp."""
        return {"inode": self.inode, "device": self.device, "boot": self.boot}

    def fits(self, directory: Path) -> bool:
        """Whether `directory` is the tree this stamp was made of, with everything that was written to it."""
        try:
            status = directory.lstat()
        except OSError:
            return False
        if status.st_ino != self.inode:
            return False
        return not self.boot or (self.boot == _boot() and status.st_dev == self.device)


def settle(store: Path) -> None:
    """Puts the trees made since the machine started on the disk, and notes that they are; raises StoreError.

    The notes themselves need not last: a tree whose note is lost is checked or made again.
    """
    waiting = [(path, stamp) for path in _records(store) if (stamp := _stamp(path)) and stamp.boot == _boot()]
    if not waiting:
        return
    flush(store)
    for path, stamp in waiting:
        fields = record.read(path)
        if fields and Stamp.parse(fields) == stamp:
            record.write(path, {**fields, **Stamp(stamp.inode).fields()}, durable=False)


def _records(store: Path) -> Iterator[Path]:
    for kind in ("kept", "roots", "trees"):
        yield from (store / kind).glob("*/*.json")


def _stamp(path: Path) -> Stamp | None:
    return Stamp.parse(record.read(path) or {})


def flush(directory: Path) -> None:
    """Puts what was written to the file system of `directory` on the disk (syncfs(2)); raises StoreError."""
    with faults(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        finally:
            os.close(descriptor)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
