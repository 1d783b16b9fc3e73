"""Bytes between descriptors: what `streams` and `terminal` share."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Mapping

CHUNK = 65536
"""The most bytes that are read at once."""


def poll(wanted: Mapping[int, int]) -> dict[int, int]:
    """Waits until a descriptor is ready for one of its events; the descriptors that are, with theirs."""
    waiting = select.poll()
    for descriptor, events in wanted.items():
        waiting.register(descriptor, events)
    return dict(waiting.poll())


def read(descriptor: int) -> bytes:
    """What there is, empty at the end; a terminal that is hung up, or another's, answers EIO then."""
    try:
        return os.read(descriptor, CHUNK)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


def write(target: int, chunk: bytes) -> None:
    """Writes it all. What a terminal does not take that is gone is lost: SIGHUP tells of that. OSError."""
    while chunk:
        try:
            chunk = chunk[os.write(target, chunk) :]
        except BlockingIOError:  # another program has left the user's terminal so
            poll({target: select.POLLOUT})
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return
