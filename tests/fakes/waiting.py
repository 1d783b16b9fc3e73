"""Waits for what a test looks at, however busy the machine is, and says what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds to wait at most, on a machine that has more to do."""


def wait_until(is_so: Callable[[], object], what: str, *, glance: float = 0.01) -> None:
    """Returns when `is_so`, asked every `glance` seconds; fails with `what` when it never is."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(glance)
