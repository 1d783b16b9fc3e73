"""An Observer that keeps what it is told, for tests that look at it and for those that do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Quiet:
    """Prints nothing; `lines` has what was said, in order, buildpack output included."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.lines.append(f"== {name}")
        yield

    @contextmanager
    def activity(self, name: str) -> Iterator[None]:
        yield

    def say(self, text: str) -> None:
        self.lines.append(text)

    def detail(self, text: str) -> None:
        self.lines.append(text)

    def output(self, source: str, data: bytes) -> None:
        self.lines.append(f"{source}: {data.decode(errors='replace')}")

    def progress(self, text: str) -> None:
        self.lines.append(text)
