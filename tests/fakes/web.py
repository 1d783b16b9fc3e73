"""Servers on this machine that a test has started, asked until they answer; and ports for them."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable

_PATIENCE = 15.0


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
    """A port that nobody listens at."""
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])
