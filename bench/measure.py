"""Measures runs of programs, and compares several runs. Called by the scenarios."""

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
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from bench.orphans import adopted
from bench.watch import Watch, watching
from packhorse.linux.processes import read_proc

_GLANCE = 0.02  # seconds between two looks at a process
_PATIENCE = 30.0  # seconds for a program that is told to end
_SAID = 2000  # characters of what a program said that failed


class Failed(Exception):
    """A program did not do what it was measured for."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program: elapsed seconds with its start, processor seconds, peak memory in bytes.

    `memory` is that of the process; `own` is that of all processes outside of sandboxes, with an engine's;
    `read` and `written` are the bytes of all processes. See `bench.watch`.
    """

    seconds: float
    cpu: float
    memory: int
    own: int = 0
    read: int = 0
    written: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What series of runs say. `value` is what is compared of a run; a bar is what the ratio of the medians,
    the first through another, may be at most: `bar` for the second, `bars` by name.

    `point` is how much of something there was, in findings that say how cost grows. One that is not `last`
    is what is known so far.
    """

    title: str
    series: Mapping[str, Sequence[Run]]
    unit: str = "s"
    value: Callable[[Run], float] = lambda run: run.seconds
    bar: float | None = None
    bars: Mapping[str, float] = field(default_factory=dict)
    point: tuple[str, float] | None = None
    last: bool = True

    @property
    def ratios(self) -> dict[str, float]:
        """The median of the first series divided by that of each other one, by name."""
        medians = {
            name: statistics.median(map(self.value, runs)) for name, runs in self.series.items() if runs
        }
        first, *others = medians or [""]
        return {other: medians[first] / medians[other] for other in others if medians[other]}

    @property
    def limits(self) -> dict[str, float]:
        """The bars of the series that have a ratio, by name."""
        second = list(self.ratios)[:1] if self.bar is not None else []
        return dict.fromkeys(second, self.bar or 0) | {
            name: bar for name, bar in self.bars.items() if name in self.ratios
        }

    @property
    def missed(self) -> bool:
        """Whether a ratio is above its bar."""
        return any(self.ratios[name] > bar for name, bar in self.limits.items())

    def lines(self) -> Iterator[str]:
        """For people: each program's median with its spread, then the ratio."""
        yield self.title
        for name, runs in self.series.items():
            values = sorted(map(self.value, runs))
            spread = f"{values[0]:.3f} to {values[-1]:.3f}"
            cpu = statistics.median(run.cpu for run in runs)
            memory = max(run.own or run.memory for run in runs) / 1e6
            moved = [
                statistics.median(getattr(run, kind) for run in runs) / 1e6 for kind in ("read", "written")
            ]
            median = f"{statistics.median(values):8.3f} {self.unit}"
            used = (
                f"cpu {cpu:.2f} s  memory {memory:.0f} MB  read {moved[0]:.1f} MB  written {moved[1]:.1f} MB"
            )
            yield f"  {name:12}{median}  ({spread}, {len(runs)} runs)  {used}"
        if not self.ratios and self.point is None:
            yield "  there is nothing to compare it with"
        for name, ratio in self.ratios.items():
            bar = self.limits.get(name)
            held = "" if bar is None else f", at most {bar:.3g}: {'held' if ratio <= bar else 'missed'}"
            yield f"  through {name:12}{ratio:8.3f}{held}"


def timed(
    command: Sequence[str | Path],
    environ: Mapping[str, str],
    *,
    folder: Path | None = None,
    engine: int | None = None,
) -> Run:
    """Runs a program to its end, in `folder`; one that fails fails the benchmark, with what it said.

    What it has left behind then is waited for too, and not measured; what an `engine` starts is not. Nor has
    it to wait for what others have left to be written.
    """
    os.sync()
    with tempfile.TemporaryFile() as said, adopted() if engine is None else nullcontext():
        started = time.perf_counter()
        process = subprocess.Popen(
            list(map(str, command)), env=dict(environ), stdout=said, stderr=said, cwd=folder
        )
        watch = Watch(process.pid, engine)
        with _ended(process), watching(watch), _watched(process.pid) as peak:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - started
        use = watch.end()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise Failed(f"{command[0]} failed: {said.read().decode(errors='replace')[-_SAID:]}")
    memory = max(peak, default=0)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, memory, max(use.memory, memory), use.read, use.written)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the program if waiting for it is interrupted."""
    try:
        yield
    except BaseException:
        process.terminate()
        process.wait(_PATIENCE)
        raise


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
                status = read_proc("status", process)
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
    """Adds up several runs, as if one ran after the other."""
    return Run(
        sum(r.seconds for r in runs),
        sum(r.cpu for r in runs),
        max(r.memory for r in runs),
        max(r.own for r in runs),
        sum(r.read for r in runs),
        sum(r.written for r in runs),
    )


def packhorse() -> list[str | Path]:
    """The packhorse command of this checkout."""
    return [Path(sys.executable).parent / "packhorse"]


def peer(name: str) -> Path | None:
    """Another program, if it is on PATH."""
    found = shutil.which(name)
    if found is None:
        print(f"  {name} is not on PATH: left out", flush=True)
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
