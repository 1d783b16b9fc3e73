"""Makes what the workers of one test run share, once."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path


def make_once(path: Path, make: Callable[[], object]) -> Path:
    """Calls `make`, which makes `path`, unless another worker has; one that comes meanwhile waits for it."""
    with path.with_name(f".{path.name}.made").open("a+") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        if mark.tell() == 0:
            make()
            mark.write("yes")
    return path
