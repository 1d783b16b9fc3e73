"""kill -9 at random moments of all commands that write, each followed by a build of the right image."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence

from fakes.installation import Home
from torture.ground import BUILDER, VERSIONS, Ground, Words

KINDS = ("build", "gc", "copy", "making")


class Killer:
    """Runs commands on a ground and kills them; `counts` says how often it came in time."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground = ground
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.killed = 0
        self._lengths: dict[str, float] = {}

    def kill(self, kind: str, words: Words, ground: Ground | None = None) -> None:
        """Starts a command and kills it after a part of the time that it took so far, alone or with all of
        its children.
        """
        home = (ground or self.ground).home
        length = self._lengths.get(kind, 1.0)
        started = time.monotonic()
        process = home.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(self.chance.uniform(0, length * 1.05))
            self._lengths[kind] = (length + time.monotonic() - started) / 2
            self.counts[f"{kind}: too late"] += 1
        except subprocess.TimeoutExpired:
            (os.killpg if self.chance.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
            process.wait()
            (ground or self.ground).wait_for_children()
            self.counts[f"{kind}: killed"] += 1
            self.killed += 1

    def build(self, round: int) -> None:
        """Every fifth build unpacks the builder first."""
        if round % 5 == 0:
            self._home.ok("rmi", BUILDER)
            self._home.ok("gc")
            self.ground.stock()
        self.kill("cold build" if round % 5 == 0 else "build", self.ground.words(self._version()))
        self._assert_right(self.ground)

    def gc(self, round: int) -> None:
        """A collection with something to do: what another app has kept, and half the time the builder's
        trees.
        """
        self.ground.build(self._version(), "other")
        self._home.ok("rmi", "other", *([BUILDER] if round % 2 else []))
        self.kill("gc", ["gc"])
        if round % 2:
            self.ground.stock()
        self._assert_right(self.ground)

    def copy(self, round: int) -> None:
        """Into the store and out of it."""
        target = self._home.path / f"copy-{round}"
        into: Words = ["copy", f"oci:{self.ground.folder}/builder:{BUILDER}", BUILDER]
        out: Words = ["copy", BUILDER, f"oci:{target}:copied"]
        if round % 2:
            self._home.ok("rmi", BUILDER)
            self._home.ok("gc")
        self.kill("copy in" if round % 2 else "copy out", into if round % 2 else out)
        self._home.ok(*(into if round % 2 else out))
        self._assert_right(self.ground)
        subprocess.run(["rm", "-rf", target], check=True)

    def making(self, round: int) -> None:
        """The first command of a new store."""
        ground = self.ground.again(f"new-{round}")
        words: Words = ["copy", f"oci:{ground.folder}/builder:{BUILDER}", BUILDER]
        self.kill("making", ["images"] if round % 2 else words, ground)
        ground.stock()
        self._assert_right(ground)
        subprocess.run(["rm", "-rf", ground.home.path], check=True)

    def _assert_right(self, ground: Ground) -> None:
        ground.build(self._version())
        left = ground.leftovers()
        assert not left, left
        ground.assert_whole()

    @property
    def _home(self) -> Home:
        return self.ground.home

    def _version(self) -> int:
        return self.chance.choice(VERSIONS)

    def run(self, rounds: int, kinds: Sequence[str] = KINDS) -> None:
        """So many killed commands of each kind; afterwards the store has no more than an undisturbed one."""
        for kind in kinds:
            torture: Callable[[int], None] = getattr(self, kind)
            before, number = self.killed, 0
            while self.killed < before + rounds:
                torture(number)
                number += 1
        self.assert_nothing_grew()

    def assert_nothing_grew(self) -> None:
        reference = self.ground.again(f"reference-{uuid.uuid4().hex}")
        reference.stock()
        reference.build(3)
        self.ground.build(3)
        for ground in (self.ground, reference):
            ground.home.ok("gc")
        assert self.ground.names() == reference.names(), self.ground.names() ^ reference.names()
