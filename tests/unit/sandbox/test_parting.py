"""Mounts of sandboxes that are over are taken down while others go on, and after the command."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from packhorse.sandbox.runner import TeardownQueue

_SLOW = 2  # seconds that closing takes


def slow() -> tuple[int, socket.socket]:
    """A descriptor whose last closing takes long, as unmounting does: of a connection nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, _SLOW))
    ours.setblocking(False)
    try:
        while ours.send(bytes(1 << 16)):
            pass
    except BlockingIOError:
        ours.setblocking(True)
    return ours.detach(), theirs


@pytest.mark.system
def test_nobody_waits_for_mounts_that_are_taken_down() -> None:
    descriptor, other = slow()
    began = time.monotonic()
    with other, TeardownQueue() as parting:
        parting.add_mounts(descriptor)
    assert time.monotonic() - began < _SLOW * 0.95
