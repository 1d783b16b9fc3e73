"""A disk that is full, of bytes or of inodes, at whatever moment of a command: a real one, sized to fail.

Unlike `faults` this also reaches what runs in the sandbox, and the kernel's own overlay.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from contextlib import suppress
from itertools import count
from pathlib import Path

from torture.ground import BUILDER, VERSIONS, Ground, prepare
from torture.power import Disk

_TOLD = ("No space left", "limit disk", "limit inodes")


_NEEDS = {"build": (1_500_000, 800), "cold build": (16_000_000, 1400), "copy": (3_000_000, 25)}
"""About how many bytes and inodes each command needs."""


class Full:
    """A ground on a small ext4, filled up before each command to so much that it cannot end."""

    def __init__(self, directory: Path, user: str, seed: int, program: Path | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._disk = Disk(directory / "disk", inodes=16_000)
        self._disk.make()
        self.ground: Ground = prepare(directory, user, home=self._disk.path / "home", program=program)

    def run(self, rounds: int) -> None:
        try:
            for _ in range(rounds):
                for what in ("bytes", "inodes"):
                    for command in _NEEDS:
                        self._fill_and_run(what, command)
                self._free_when_nothing_is_left()
        finally:
            self._disk.unmount()

    def _fill_and_run(self, what: str, command: str) -> None:
        """Some of what the command needs is there."""
        ground, version = self.ground, self._chance.choice(VERSIONS)
        if command != "build":
            ground.forget_builder()
        if command == "cold build":
            ground.stock()
        need = _NEEDS[command][what == "inodes"]
        filling = self._fill(what, int(need * self._chance.random()))
        words = ground.words(version)
        if command == "copy":
            words = ["copy", f"oci:{ground.folder}/builder:{BUILDER}", BUILDER]
        done = ground.home.run(*words)
        said = done.stdout + done.stderr
        self.counts[f"{command}, few {what}: exit {done.returncode}"] += 1
        assert "went wrong" not in said and "Traceback" not in said, said
        # 21, 51: it was a buildpack that met the end of the disk, or was ended before that.
        assert done.returncode in (0, 6, 21, 51), said
        assert done.returncode == 0 or any(word in said for word in _TOLD), said
        subprocess.run(["rm", "-rf", filling], check=True)
        if command == "copy":
            ground.stock()
        ground.build(version)
        assert not ground.leftovers(), ground.leftovers()
        ground.assert_whole()

    def _fill(self, what: str, left: int) -> Path:
        """Leaves so many bytes (some more, for the file system's own) or inodes."""
        filling = self._disk.path / "filling"
        filling.mkdir()
        room = os.statvfs(self._disk.path)
        if what == "bytes":
            size = room.f_bavail * room.f_frsize - left - 300_000
            with (filling / "bytes").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(size, 1))
        else:
            for number in range(room.f_favail - left):
                (filling / f"{number}").touch()
        return filling

    def _free_when_nothing_is_left(self) -> None:
        """On a disk without a byte or an inode left an image can be removed, and its space freed."""
        self.ground.build(self._chance.choice(VERSIONS), "other")
        filling = self._fill("bytes", 10_000_000)
        self._fill_up(filling)
        done = self.ground.home.run("images")
        self.ground.home.ok("rmi", "other")
        assert self.ground.home.ok("gc").startswith("freed ")
        self.counts[f"images on a full disk: exit {done.returncode}"] += 1
        self.counts["rmi and gc on a full disk"] += 1
        subprocess.run(["rm", "-rf", filling], check=True)

    def _fill_up(self, filling: Path) -> None:
        """Takes what is left to the last inode and block."""
        with (filling / "rest").open("wb", buffering=0) as rest:
            with suppress(OSError):
                for number in count():
                    (filling / f"empty-{number}").touch()
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while rest.write(bytes(size)):
                        os.fsync(rest.fileno())
