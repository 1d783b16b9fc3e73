"""What the processes of a program use while it runs: memory, and bytes read and written. Called by `measure`.

From /proc. The kernel adds what a process has read and written to its parent when that takes note of its end,
so the sum over a tree only grows; of a program that has ended it is read before anybody takes note.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_GLANCE = 0.05  # seconds between two looks
_PROC = Path("/proc")
_PAGE = 4096


@dataclass(slots=True)
class Use:
    """`memory` is the most that all had at one time outside of a sandbox, without pages of files and what
    is shared; `read` is by calls, from disk or not; `written` goes to a disk, now or later.
    """

    memory: int = 0
    read: int = 0
    written: int = 0


@dataclass(slots=True)
class _Count:
    """Of one tree: what it had read and written at first, and what was the most seen."""

    first: tuple[int, int]
    most: tuple[int, int]


@dataclass(slots=True)
class Watch:
    """A program by its process, and an engine that works for it by the process of that."""

    process: int
    engine: int | None = None
    use: Use = field(default_factory=Use)
    _counts: dict[int, _Count] = field(default_factory=dict)
    _namespace: str = ""

    def glance(self) -> None:
        """Looks once."""
        roots = [self.process, *(self._of_engine() if self.engine else [])]
        memory = 0
        for root in roots:
            tree = list(process_tree(root))
            memory += sum(_memory(process) for process in tree if _outside(process))
            self._note(root, *map(sum, zip(*map(_moved, tree), strict=True)))
        self.use.memory = max(self.use.memory, memory)

    def end(self) -> Use:
        """The sum; the program must have ended, and nobody have taken note of it."""
        self._note(self.process, *_moved(self.process))
        if self.engine:
            self.glance()
        for count in self._counts.values():
            self.use.read += count.most[0] - count.first[0]
            self.use.written += count.most[1] - count.first[1]
        return self.use

    def _note(self, root: int, read: int = 0, written: int = 0) -> None:
        # What an engine did before is not this program's; what it starts for it begins with nothing.
        old = root == self.engine and root not in self._counts
        count = self._counts.setdefault(root, _Count((read, written) if old else (0, 0), (0, 0)))
        count.most = max(count.most[0], read), max(count.most[1], written)

    def _of_engine(self) -> Iterator[int]:
        """The engine and what it has started that is not below it: they share its mounts."""
        here = _link(self.engine or 0, "mnt")
        every = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
        its = {process for process in every if here and _link(process, "mnt") == here}
        yield from (process for process in its if _parent(process) not in its)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Looks now and then, in a thread."""
    over = threading.Event()
    watch.glance()

    def look() -> None:
        while not over.wait(_GLANCE):
            watch.glance()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def process_tree(process: int) -> Iterator[int]:
    """Yields a process and all that descend from it, those in a sandbox too."""
    yield process
    for task in _listed(_PROC / str(process) / "task"):
        for child in _text(task / "children").split():
            yield from process_tree(int(child))


def _listed(folder: Path) -> Sequence[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()


def _text(path: Path) -> str:
    """What it says; nothing, when the process is gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _moved(process: int) -> tuple[int, int]:
    lines = dict(line.split(": ") for line in _text(_PROC / str(process) / "io").splitlines())
    return int(lines.get("rchar", 0)), int(lines.get("write_bytes", 0))


def _memory(process: int) -> int:
    words = _text(_PROC / str(process) / "statm").split()
    return (int(words[1]) - int(words[2])) * _PAGE if words else 0


def _outside(process: int) -> bool:
    """Whether it sees the processes that we see: those in a sandbox do not."""
    return _link(process, "pid") == _link("self", "pid")


def _parent(process: int) -> int:
    _, _, rest = _text(_PROC / str(process) / "stat").rpartition(")")
    return int(rest.split()[1]) if rest else 0


def _link(process: int | str, kind: str) -> str:
    try:
        return str((_PROC / str(process) / "ns" / kind).readlink())
    except OSError:
        return ""
