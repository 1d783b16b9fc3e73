"""The first build of a machine makes the default builder too; beside the part of it that apt and npm take.

The second column is the time of the same build in which a process of apt, dpkg or npm was alive. The
difference is packhorse's own part.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.bars import TOOLS
from bench.measure import Finding, Run, environment, packhorse, timed
from bench.watch import process_tree

_EXPRESS = Path(__file__).parents[1] / "samples/nodejs-express"
_GLANCE = 0.02  # seconds between two looks
_NAMES = ("apt", "apt-get", "apt-cache", "apt-config", "apt-key", "npm", "npm-cli.js")


def run(folder: Path, *, rounds: int) -> Iterator[Finding]:
    """Each round begins with nothing. apt's lists and packages come from where this machine gets them."""
    took: dict[str, list[Run]] = {"packhorse": [], TOOLS: []}
    for number in range(min(rounds, 3)):
        here = folder / f"round-{number}"
        here.mkdir()
        source, environ = here / "app", environment(here)
        shutil.copytree(_EXPRESS, source, ignore=shutil.ignore_patterns("node_modules"))
        with _alive() as seconds:
            whole = timed([*packhorse(), "build", "bench/first", "--path", source], environ)
        took["packhorse"].append(whole)
        took[TOOLS].append(Run(sum(seconds), 0, 0))
        _remove(here, environ)
    yield Finding("an Express application", took)


@contextmanager
def _alive() -> Iterator[list[float]]:
    """Collects the seconds in which one of the tools runs below this process."""
    seconds: list[float] = []
    over = threading.Event()

    def look() -> None:
        last, ran = time.monotonic(), False
        while not over.wait(_GLANCE):
            runs, now = any(map(_is_tool, process_tree(os.getpid()))), time.monotonic()
            if runs and ran:
                seconds.append(now - last)
            last, ran = now, runs

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()


def _is_tool(process: int) -> bool:
    try:
        words = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False
    # npm gives its process another title, such as "npm ci".
    names = [word.rpartition("/")[2] for word in words[:2]] + words[0].split()[:1]
    return any(name in _NAMES or name.startswith("dpkg") for name in names)


def _remove(folder: Path, environ: Mapping[str, str]) -> None:
    for words in (["rmi", "bench/first"], ["gc"]):
        subprocess.run([*packhorse(), *words], env=dict(environ), check=True, capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)
