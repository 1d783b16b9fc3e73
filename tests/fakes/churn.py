"""Somebody who works in a directory while it is looked at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def churning(directory: Path) -> Iterator[None]:
    """Files and directories come and go there all the time, and what is one and then the other."""
    over, begun = threading.Event(), threading.Event()

    def work() -> None:
        while not over.is_set():
            for number in range(20):
                below = directory / f"directory-{number}"
                below.mkdir()
                (below / "file").touch()
                (directory / f"file-{number}").touch()
            begun.set()
            for number in range(20):
                below = directory / f"directory-{number}"
                shutil.rmtree(below)
                below.touch()
                below.unlink()
                (directory / f"file-{number}").unlink()

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        try:
            assert begun.wait(60)
            yield
        finally:
            over.set()
    working.result()
