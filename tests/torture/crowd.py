"""Many commands at once over one store: all end, all are right, and none waits longer than its share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from torture.faults import Injector
from torture.ground import BUILDER, VERSIONS, Ground, Words


@dataclass(frozen=True)
class Crowd:
    """What came of many commands at once: how long each took, and how long locks were waited for."""

    name: str
    seconds: Sequence[float]
    waits: dict[str, tuple[int, float, float]]

    def __str__(self) -> str:
        waits = ", ".join(f"{name} {longest:.2f} s" for name, (_, _, longest) in sorted(self.waits.items()))
        middle, longest = statistics.median(self.seconds), max(self.seconds)
        times = f"{len(self.seconds)} commands, median {middle:.1f} s, longest {longest:.1f} s"
        return f"{self.name}: {times}; longest waits for locks: {waits}"


class Crowds:
    """Crowds on one ground."""

    def __init__(self, ground: Ground, injector: Injector) -> None:
        self.ground = ground
        self._injector = injector

    def run(self, size: int) -> list[Crowd]:
        """Every kind of crowd, each of so many commands."""
        found = [
            self.one_app(size),
            self.one_app(size, cold=True),
            self.many_apps(size),
            self.with_gc(size),
            self.copies(size),
            self.collectors(size),
        ]
        self.ground.wait_for_children()
        self.ground.build(0)
        assert not self.ground.leftovers(), self.ground.leftovers()
        self.ground.assert_whole()
        return found

    def one_app(self, size: int, *, cold: bool = False) -> Crowd:
        """Builds of one app in one version."""
        if cold:
            self.ground.home.ok("rmi", BUILDER)
            self.ground.home.ok("gc")
            self.ground.stock()
        name = f"one app{', its builder not unpacked' if cold else ''}"
        return self._at_once(name, [(self.ground.words(1), self.ground.expected[1])] * size)

    def many_apps(self, size: int) -> Crowd:
        """Builds of as many apps, of which several are in one version."""
        versions = [number % len(VERSIONS) for number in range(size)]
        builds = [
            (self.ground.words(version, f"app-{number}"), self.ground.expected[version])
            for number, version in enumerate(versions)
        ]
        return self._at_once("many apps", builds)

    def with_gc(self, size: int) -> Crowd:
        """Builds of one app in changing versions, removals of its name and collections between them."""
        versions = [number % len(VERSIONS) for number in range(size)]
        commands: list[tuple[Words, str | None]] = []
        for number, version in enumerate(versions):
            commands.append((self.ground.words(version, "shared"), self.ground.expected[version]))
            commands.append((["gc"] if number % 2 else ["rmi", "shared"], None))
        return self._at_once("one name in many versions, gc and rmi", commands)

    def copies(self, size: int) -> Crowd:
        """Copies of one image into the store, under one name."""
        words: Words = ["copy", f"oci:{self.ground.folder}/builder:{BUILDER}", "copied"]
        return self._at_once("copies of one image", [(words, None)] * size)

    def collectors(self, size: int) -> Crowd:
        """Collections, with something to do."""
        self.ground.home.ok("rmi", "copied", *(f"app-{number}" for number in range(size)))
        return self._at_once("gc", [(["gc"], None)] * size)

    def _at_once(self, name: str, commands: Sequence[tuple[Words, str | None]]) -> Crowd:
        self._injector.clear()
        with ThreadPoolExecutor(len(commands)) as pool:
            seconds = list(pool.map(self._one, *zip(*commands, strict=True)))
        return Crowd(name, seconds, self._injector.waits())

    def _one(self, words: Words, expected: str | None) -> float:
        started = time.monotonic()
        done = self._injector.home.run(*words, timeout=500)
        # A name that another removes in between is nobody's fault.
        assert done.returncode in ((0, 4) if words[0] == "rmi" else (0,)), done.stderr
        assert expected is None or done.stdout.strip() == expected, done.stdout
        return time.monotonic() - started
