"""Servers on this machine that a test has started, asked until they answer; and ports for them."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

_PATIENCE = 60.0

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 30
_PORTS = cycle(20_000 + 400 * _WORKER + (os.getpid() + number) % 400 for number in range(400))
"""Below those that the kernel gives to who asks for any; each worker of a test run has some of its own."""


def answer(port: int, host: str = "127.0.0.1", *, failed: Callable[[], object] = lambda: None) -> bytes:
    """What is served at `/`, once something is.

    `failed` tells why nothing ever will be, if it is known while that is waited for.
    """
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        why = failed()
        assert not why, why
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/", timeout=5) as response:
                return bytes(response.read())
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody answers at {host}:{port}")


def free_port() -> int:
    """A port that nobody listens at, and that nobody is given before it is used."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("", port)):
            return port
    raise AssertionError
