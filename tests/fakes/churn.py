"""Somebody who works in a directory while it is looked at."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def churning(directory: Path, *, replaces: bool = True) -> Iterator[None]:
    """Files and directories come and go there all the time, and what is one and then the other."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            for number in range(20):
                below = directory / f"directory-{number}"
                below.mkdir()
                (below / "file").touch()
                (directory / f"file-{number}").touch()
            for number in range(20):
                shutil.rmtree(directory / f"directory-{number}")
                (directory / f"file-{number}").unlink()
                if replaces:
                    (directory / f"directory-{number}").touch()
                    (directory / f"directory-{number}").unlink()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
