"""What a run of a program took, and what several runs say together. Called by the scenarios."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GLANCE = 0.02  # seconds between two looks at a process
_SAID = 2000  # characters of what a program said that failed


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program, start and all: seconds that passed and of processors, most memory in bytes."""

    seconds: float
    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What two series of runs say. `value` is what is compared of a run; the bar is what the ratio of the
    medians, the first through the second, may be at most, None where there is none.
    """

    title: str
    series: Mapping[str, Sequence[Run]]
    unit: str = "s"
    value: Callable[[Run], float] = lambda run: run.seconds
    bar: float | None = None

    @property
    def ratio(self) -> float | None:
        """Of the medians; None if there is nothing to compare."""
        medians = [statistics.median(map(self.value, runs)) for runs in self.series.values()]
        return medians[0] / medians[1] if len(medians) == 2 else None

    @property
    def missed(self) -> bool:
        """Whether a bar was there and not held."""
        return self.bar is not None and self.ratio is not None and self.ratio > self.bar

    def lines(self) -> Iterator[str]:
        """For people: each program's median with its spread, then the ratio."""
        yield self.title
        for name, runs in self.series.items():
            values = sorted(map(self.value, runs))
            spread = f"{values[0]:.3f} to {values[-1]:.3f}"
            cpu = statistics.median(run.cpu for run in runs)
            memory = max(run.memory for run in runs) / 1e6
            median = f"{statistics.median(values):8.3f} {self.unit}"
            used = f"cpu {cpu:.2f} s  memory {memory:.0f} MB"
            yield f"  {name:12}{median}  ({spread}, {len(runs)} runs)  {used}"
        if self.ratio is None:
            yield "  there is nothing to compare it with"
            return
        bar = "" if self.bar is None else f", at most {self.bar:g}: {'missed' if self.missed else 'held'}"
        yield f"  ratio       {self.ratio:8.2f}{bar}"


def timed(command: Sequence[str | Path], environ: Mapping[str, str]) -> Run:
    """Runs a program to its end; one that fails fails the benchmark, with what it said."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), env=dict(environ), stdout=said, stderr=said)
        with _watched(process.pid) as peak:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{command[0]} failed: {said.read().decode(errors='replace')[-_SAID:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, max(peak, default=0))


@contextmanager
def _watched(process: int) -> Iterator[list[int]]:
    """What the kernel says was the most memory of a process, asked now and then.

    What it says at the end, to who waits, is that of the process that started it, if that was more.
    """
    peak: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_GLANCE):
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                return
            peak.extend(int(size) * 1024 for size in re.findall(r"VmHWM:\s*(\d+)", status))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def together(runs: Sequence[Run]) -> Run:
    """Several runs as one after the other."""
    return Run(sum(r.seconds for r in runs), sum(r.cpu for r in runs), max(r.memory for r in runs))


def packhorse() -> list[str | Path]:
    """The command that users have, of this very checkout."""
    return [Path(sys.executable).parent / "packhorse"]


def peer(name: str) -> Path | None:
    """Another program, if it is on PATH."""
    found = shutil.which(name)
    if found is None:
        print(f"  {name} is not on PATH: packhorse is measured alone", flush=True)
    return Path(found) if found else None


def environment(folder: Path) -> dict[str, str]:
    """Homes of their own for the programs, so that nothing that a user has configured counts."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PACKHORSE_HOME": str(home / "packhorse"),
        "PACK_HOME": str(home / "pack"),
        "DOCKER_CONFIG": str(home / "docker"),
    }
