"""The power fails at random moments: a file system is shut down without its log, and mounted anew.

What was never flushed is gone then, as with a real machine: files are empty or missing, names are old. Needs
root, a loop device and ext4.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torture.faults import Injector
from torture.ground import BUILDER, VERSIONS, Ground, prepare

CUT = "cut"
_OPTIONS = ("data=ordered", "data=ordered,commit=1", "data=writeback,noauto_da_alloc,commit=1")


class Disk:
    """A small ext4 of its own at `path`."""

    def __init__(self, path: Path, *, inodes: int = 60_000) -> None:
        self.path = path
        self._inodes = inodes
        self._file = path.with_name(f"{path.name}.ext4")

    def make(self) -> None:
        """Makes and mounts it; every user may write at its top."""
        self.path.mkdir()
        with self._file.open("wb") as file:
            file.truncate(400 << 20)
        _run("mkfs.ext4", "-q", "-m", "0", "-N", str(self._inodes), self._file)
        self.mount(_OPTIONS[0])
        self.path.chmod(0o1777)

    def mount(self, options: str) -> None:
        _run("mount", "-o", f"loop,{options}", self._file, self.path)

    def unmount(self) -> None:
        """Waits for whatever still has something open there."""
        _run("timeout", "60", "sh", "-c", 'until umount "$0" 2>/dev/null; do sleep 0.05; done', self.path)


class Power:
    """Cuts the power in commands of a ground on a disk of its own; after each the next build is right."""

    def __init__(self, ground: Ground, disk: Disk, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._disk = disk
        self._chance = random.Random(seed)
        self._injector = Injector(ground)
        # All commands have to see when the machine was started.
        self.ground = replace(ground, home=self._injector.home)
        self._calls: dict[str, int] = {}

    def run(self, rounds: int) -> None:
        for number in range(rounds):
            command = self._chance.choice(["build", "build", "cold", "copy", "gc"])
            words = self.ground.prepared(command, self._chance.choice(VERSIONS))
            if self._chance.random() < 0.3:
                os.sync()
            calls = self._calls.get(command) or self._injector.calls(words)
            self._calls.setdefault(command, calls)
            outcome = self._injector.run(words, CUT, self._chance.randint(1, calls))
            self.counts[f"{command}: {'cut' if outcome.hit else 'too late'}"] += 1
            self._start_anew(_OPTIONS[number % len(_OPTIONS)])
            self._assert_right()

    def _start_anew(self, options: str) -> None:
        self._disk.unmount()
        self._disk.mount(options)
        self._injector.restart()

    def _assert_right(self) -> None:
        ground, version = self.ground, self._chance.choice(VERSIONS)
        if not any(BUILDER in str(line) for line in ground.home.ok("images", "--no-trunc").splitlines()):
            ground.stock()
        ground.build(version)
        assert ground.home.ok("run", "app") == f"version {version}"
        ground.assert_whole()
        ground.assert_trees()
        ground.home.ok("gc")
        assert not ground.leftovers()


@contextmanager
def powered(directory: Path, seed: int, program: Path | None = None) -> Iterator[Power]:
    """A ground of root's on a disk of its own in `directory`."""
    disk = Disk(directory / "disk")
    disk.make()
    try:
        yield Power(prepare(directory, home=disk.path / "home", program=program), disk, seed)
    finally:
        disk.unmount()


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)
