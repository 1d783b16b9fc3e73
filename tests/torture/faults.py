"""System calls of a command that fail, or kill it in their place, one after the other (`faults.c`)."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from torture.ground import VERSIONS, Ground, Words

SOURCE = Path(__file__).with_name("faults.c")
NEVER = 1 << 40
KILL = "kill"
_SIZE = 208 + 16 * 32


@dataclass(frozen=True)
class Outcome:
    """How a command with a fault in it ended: where the fault was ("": it came to none), what it said."""

    status: int
    hit: str
    calls: int
    said: str


class Injector:
    """A second packhorse for a ground, whose calls below the store can be let fail: `home` runs it."""

    def __init__(self, ground: Ground) -> None:
        self.boot = ground.folder / "boot"
        self._store = ground.store
        self._settings, self._counter = ground.folder / "settings", ground.folder / "counter"
        self.restart()
        self.clear()
        self._counter.chmod(0o666)
        self.home = replace(
            ground.home, program=self._installed(ground.home.program, ground.folder / "faults")
        )

    def _installed(self, program: Path, directory: Path) -> Path:
        """A virtual environment with the packages of another, and a python that loads the library."""
        (directory / "bin").mkdir(parents=True)
        for name in ("lib", "pyvenv.cfg"):
            (directory / name).symlink_to(program.parents[1] / name)
        library, python = directory / "faults.so", directory / "bin" / "python"
        real = os.path.realpath("/usr/bin/python3")
        defines = [f'-DSETTINGS="{self._settings}"', f'-DLIBRARY="{library}"', f'-DPYTHON="{real}"']
        subprocess.run(["cc", "-shared", "-fPIC", *defines, "-o", library, SOURCE, "-ldl"], check=True)
        subprocess.run(["cc", "-DWRAPPER", *defines, "-o", python, SOURCE], check=True)
        script = directory / "bin" / program.name
        script.write_text(f"#!{python}\n" + program.read_text().partition("\n")[2])
        script.chmod(0o755)
        return script

    def run(
        self, words: Words, action: int | str, first: int, *, ever: bool = False, reads: bool = False
    ) -> Outcome:
        """Runs a command whose call number `first` fails with `action` (`ever`: and all that follow)."""
        self.clear()
        self._arm(f"{first} {NEVER if ever else first} {action} {self._counter} {int(reads)}")
        try:
            done = self.home.run(*words)
        finally:
            self._arm()
        raw = self._counter.read_bytes()
        hit = raw[8:208].split(b"\0")[0].decode()
        return Outcome(done.returncode, hit, struct.unpack("q", raw[:8])[0], done.stdout + done.stderr)

    def calls(self, words: Words, *, reads: bool = False) -> int:
        """How many calls below the store a command makes that succeeds."""
        outcome = self.run(words, errno.EIO, NEVER, reads=reads)
        assert outcome.status == 0, outcome.said
        return outcome.calls

    def clear(self) -> None:
        """Counts anew."""
        self._counter.write_bytes(bytes(_SIZE))

    def waits(self) -> dict[str, tuple[int, float, float]]:
        """For each kind of lock how often it was waited for since `clear`, and the seconds: all, longest."""
        found = {}
        for name, count, total, longest in struct.iter_unpack("8sqqq", self._counter.read_bytes()[208:_SIZE]):
            if count:
                found[name.rstrip(b"\0").decode()] = (count, total / 1e9, longest / 1e9)
        return found

    def restart(self) -> None:
        """Lets commands see the boot ID of a machine that was started anew."""
        self.boot.write_text(f"{uuid.uuid4()}\n")
        self._arm()

    def _arm(self, fault: str = "") -> None:
        fault = fault or f"{NEVER} {NEVER} {errno.EIO} {self._counter} 0"
        self._settings.write_text(f"{self._store} {fault} {self.boot}\n")


class Faults:
    """Lets calls of the commands that write fail, or kills them there; after each a build is as ever."""

    def __init__(self, ground: Ground, injector: Injector, seed: int) -> None:
        self.ground = ground
        self._injector = injector
        self.counts: Counter[str] = Counter()
        self.odd: list[str] = []
        self._chance = random.Random(seed)

    def run(
        self, command: str, points: int, action: int | str, *, ever: bool = False, reads: bool = False
    ) -> None:
        """`build`, `cold`, `copy` or `gc`, with a fault in so many places or in each if there are fewer."""
        calls = self._injector.calls(self._prepared(command), reads=reads)
        for first in sorted(self._chance.sample(range(1, calls + 1), min(points, calls))):
            words = self._prepared(command)
            outcome = self._injector.run(words, action, first, ever=ever, reads=reads)
            self._judge(command, words, action, first, outcome)
            self.ground.wait_for_children()
            if command == "copy":
                self.ground.stock()
            self.ground.build(self._chance.choice(VERSIONS))
            left = self.ground.leftovers()
            assert not left, (command, action, first, outcome, left)
            self.ground.assert_whole()

    def _judge(self, command: str, words: Words, action: int | str, first: int, outcome: Outcome) -> None:
        """It worked all the same, or ended with a message."""
        self.counts[f"{command}, {_name(action)}: exit {outcome.status}"] += 1
        if action == KILL:
            return
        where = f"{command} {_name(action)} {first}: {outcome}"
        assert "went wrong" not in outcome.said and "Traceback" not in outcome.said, where
        if outcome.status not in (0, 6):
            self.odd.append(where)
        if outcome.status == 0 and command in ("build", "cold"):
            version = int(str(words[4]).rpartition("-")[2])
            assert outcome.said.strip().endswith(self.ground.expected[version]), where

    def _prepared(self, command: str) -> Words:
        return self.ground.prepared(command, self._chance.choice(VERSIONS))


def _name(action: int | str) -> str:
    return action if isinstance(action, str) else errno.errorcode[action]
