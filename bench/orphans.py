"""What a program leaves behind when it ends, as packhorse its removal: over before the next is measured.

Called by `measure`. It is in no figure: nobody waits for it, but who comes next shares processors and disk.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GLANCE = 0.02  # seconds between two looks
_PATIENCE = 300.0  # seconds for all that goes on
_SET_CHILD_SUBREAPER = 36  # prctl(2)


@contextmanager
def adopted() -> Iterator[None]:
    """What is left behind in the block is over with it: processes of it come to this one instead of init."""
    before = _children()
    _adopt(yes=True)
    try:
        yield
        _wait(before)
    finally:
        _adopt(yes=False)


def _wait(others: set[int]) -> None:
    end = time.monotonic() + _PATIENCE
    while (left := _children() - others) and time.monotonic() < end:
        for process in left:
            os.waitpid(process, os.WNOHANG)
        time.sleep(_GLANCE)


def _children() -> set[int]:
    found = set[int]()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _adopt(*, yes: bool) -> None:
    arguments = [ctypes.c_ulong(number) for number in (yes, 0, 0, 0)]
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, *arguments)
