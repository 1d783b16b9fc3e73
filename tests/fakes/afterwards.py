"""What goes on when a command has ended: the processes that remove what it left in a store."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from packhorse.store.trash import wait_for_removal


def removers(store: Path) -> list[int]:
    """The processes that remove what commands have put aside in a store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if any(b"store.trash" in word for word in words) and bytes(store) in words:
                found.append(int(path.parent.name))
    return found


def remover(store: Path, *, beside: Collection[int] = ()) -> int:
    """The process that a command has just started, if it has others beside it; it must have much to do.

    The kernel shows the words of a process only some moments after it has begun.
    """
    end = time.monotonic() + 60
    while not (found := set(removers(store)) - set(beside)):
        assert time.monotonic() < end, "nothing is removed afterwards"
    (process,) = found
    return process


def wait(store: Path) -> None:
    """Returns when all is removed that commands which have ended had put aside."""
    wait_for_removal(store)


def settled(store: Path) -> None:
    """Returns when nobody works in a store any more: what commands have left behind neither removes nor
    writes anything there.
    """
    for path in (store / "leases").glob("*"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)


def remove(home: Path) -> None:
    """Removes a home whose commands are over."""
    settled(home / "store")
    subprocess.run(["rm", "-rf", str(home)], check=True)


def unmount(path: Path) -> None:
    """Unmounts a file system with a store, which what goes on there still keeps busy for a moment."""
    end = time.monotonic() + 60
    while subprocess.run(["umount", path], capture_output=time.monotonic() < end).returncode:
        assert time.monotonic() < end, f"{path} stays busy"
        time.sleep(0.02)
