"""Signals at random moments of all that packhorse does: it ends, says why, and leaves nothing behind.

`tests/acceptance/test_interruptions.py` sends a few; a campaign of hundreds is

    PYTHONPATH=src:tests python -m torture.signals DIRECTORY ROUNDS [USER [SEED]]

as root, with a DIRECTORY that every user can pass through and USER one of `fakes.users`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fakes.shell_buildpack import shell_buildpack
from packhorse.linux.processes import read_proc
from torture.ground import BUILDER, VERSIONS, Ground, Words, prepare

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGQUIT: 131}

_STUBBORN = """
trap '' TERM INT HUP QUIT
setsid sh -c 'trap "" TERM INT HUP QUIT; sleep 1000' &
(sh -c 'sleep 1000 &' &)
echo waiting
while :; do sleep 1; done
"""
_FLOOD = "echo begins; while :; do echo a line of a length that lines have; done"
_PATIENCE = 60.0
"""Seconds after the last signal within which a command has to be over, on a machine that has more to do."""


@dataclass(frozen=True)
class Sent:
    """What a command was sent: after how many seconds, which signals, to it alone or to its whole group."""

    kind: str
    after: float
    numbers: tuple[signal.Signals, ...]
    gaps: tuple[float, ...]
    whole_group: bool

    def __str__(self) -> str:
        names = "+".join(number.name for number in self.numbers)
        return f"{self.kind}: {names} after {self.after:.3f} s {'to its group' if self.whole_group else ''}"


class Interrupter:
    """Runs commands on a ground and sends them signals; `counts` says how they ended."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground = ground
        self.chance = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self._lengths: dict[str, float] = {}
        self._others: dict[str, Path] = {}
        for name, build, detect in (
            ("stubborn", _STUBBORN, ""),
            ("flood", _FLOOD, ""),
            ("hangs", "", _STUBBORN),
        ):
            self._others[name] = ground.folder / name
            if not self._others[name].exists():
                shell_buildpack(self._others[name], build=build, detect=detect)
        ground.build(0)

    def kinds(self) -> dict[str, Callable[[], Words]]:
        """What is interrupted, and the words of each."""
        ground, other = self.ground, self._others

        def build(name: str) -> Words:
            words = [word for word in ground.words(self.chance.choice(VERSIONS)) if word != "--quiet"]
            if name:
                words[-1] = other[name]
            return [*words, *self.chance.choice((["--verbose"], ["--clear-cache"], []))]

        return {
            "build": lambda: build(""),
            "cold build": self._cold,
            "stubborn build": lambda: build("stubborn"),
            "flooding build": lambda: build("flood"),
            "hanging detect": lambda: build("hangs"),
            "copy out": lambda: ["copy", BUILDER, f"oci:{ground.home.path}/copy-{self.chance.random()}:x"],
            "copy in": lambda: ["copy", f"oci:{ground.folder}/builder:{BUILDER}", BUILDER],
            "gc": self._garbage,
            "images": lambda: ["images"],
            "run": lambda: ["run", "--entrypoint", "sleep", "app", "1000"],
        }

    def send(self, kind: str) -> None:
        """Starts a command, signals it, and looks at how it ended and what it left."""
        words, more = self.kinds()[kind](), 0
        most = 2.0 if kind in ("stubborn build", "flooding build", "hanging detect", "run") else None
        length = most or self._lengths.get(kind, 1.0)
        count = self.chance.choice((1, 1, 1, 1, 2, 2, 3))
        sent = Sent(
            kind,
            self.chance.uniform(0, length),
            tuple(self.chance.choice(list(STATUS)) for _ in range(count)),
            tuple(self.chance.uniform(0, 0.2) for _ in range(count)),
            self.chance.random() < 0.5,
        )
        started = time.monotonic()
        process = self.ground.home.start(*words)
        try:
            out, err = process.communicate(timeout=sent.after)
            self._lengths[kind] = (length + time.monotonic() - started) / 2
        except subprocess.TimeoutExpired:
            out, err, more = self._signal(process, sent)
        self._judge(sent, process, f"{out}\n{err}", count + more)
        subprocess.run(f"rm -rf {self.ground.home.path}/copy-*", shell=True, check=True)

    def _signal(self, process: subprocess.Popen[str], sent: Sent) -> tuple[str, str, int]:
        """Sends them; what the command prints, and how many more it took until what it runs ended."""
        for number, gap in zip(sent.numbers, sent.gaps, strict=True):
            try:
                (os.killpg if sent.whole_group else os.kill)(process.pid, number)
            except ProcessLookupError:
                break
            time.sleep(gap)
        began, more = time.monotonic(), 0
        while True:
            try:
                return *process.communicate(timeout=1), more
            except subprocess.TimeoutExpired:
                if sent.kind == "run":  # what an image does about a signal is its own affair
                    process.send_signal(signal.SIGINT)
                    more += 1
                if time.monotonic() - began > _PATIENCE:
                    found = subprocess.run(
                        ["ps", "-s", str(process.pid), "-o", "pid,ppid,stat,wchan:30,args"],
                        capture_output=True,
                        text=True,
                    ).stdout
                    process.kill()
                    raise AssertionError(f"{sent}\nit does not end\n{found}") from None
            finally:
                self.slowest = max(self.slowest, time.monotonic() - began)

    def _judge(self, sent: Sent, process: subprocess.Popen[str], said: str, count: int) -> None:
        status = process.returncode
        # Of two that come while python is busy, the first that it hears of may be the second.
        expected = {0, *(STATUS[number] for number in sent.numbers), *(-number for number in sent.numbers)}
        if sent.kind == "run":
            expected |= set(STATUS.values()) | {137}
        told = f"{sent}\nstatus {status}\n{said[-3000:]}"
        # Python itself may have been interrupted before it began with us.
        ours = "Traceback" in said and "/packhorse/" in said
        assert not ours and "went wrong" not in said, told
        assert status in expected or (status == 1 and "Traceback" in said), told
        left = self._left(process)
        assert not left, f"{told}\n{left}"
        if count < 3 and status > 0:
            # A third signal ends packhorse at once; what that leaves is the next command's, which first gives
            # it a name of its own. So is what a signal loses that comes between two instructions.
            files = [*self.ground.leftovers(), *self._groups()]
            own = [name for name in files if f"{process.pid}-" in name and "scratch/." not in name]
            if own:
                self.counts["left something to the next build"] += 1
                print(f"{sent}\n{said[-300:]}\nleft to the next build: {own}", flush=True)
                often = self.counts["left something to the next build"] > 1 + self.counts.total() // 100
                assert not often, f"{told}\n{own}"
                self.check()
        how = "was done" if status == 0 else f"exit {status}" if status > 0 else "was just starting"
        self.counts[f"{sent.kind}: {how}"] += 1

    def _left(self, process: subprocess.Popen[str]) -> list[str]:
        """The processes that are still there, a minute later; mounts that they have are theirs alone."""
        end = time.monotonic() + 60
        while (left := self._living(process.pid)) and time.monotonic() < end:
            time.sleep(0.02)
        return left

    def _living(self, session: int) -> list[str]:
        home, found = str(self.ground.home.path), []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                _, _, rest = read_proc("stat", directory.name).rpartition(")")
                mounts = read_proc("mountinfo", directory.name)
                words = read_proc("cmdline", directory.name).replace("\0", " ")
            except OSError:
                continue
            state, parent, _, of = rest.split()[:4]
            if state != "Z" and (int(of) == session or f"{home}/" in mounts):
                found.append(f"{directory.name} {state} of {parent}: {words[:200]}")
        return found

    def _groups(self) -> list[str]:
        return [path.name for path in (self.ground.home.path / "groups").glob("*")]

    def _cold(self) -> Words:
        self.ground.home.ok("rmi", BUILDER)
        self.ground.home.ok("gc")
        self.ground.stock()
        return self.ground.words(self.chance.choice(VERSIONS))

    def _garbage(self) -> Words:
        self.ground.home.ok("copy", BUILDER, "extra")
        self.ground.home.ok("rmi", "extra")
        return ["gc"]

    def check(self) -> None:
        """A build that nobody disturbs makes the right image, and takes away what there was."""
        self.ground.stock()
        self.ground.build(self.chance.choice(VERSIONS))
        left = [*self.ground.leftovers(), *self._groups()]
        assert not left, left


def main(directory: str, rounds: str, user: str = "", seed: str = "") -> None:
    """A campaign."""
    for number in STATUS:  # nohup's commands would ignore SIGHUP, and so would theirs
        signal.signal(number, signal.SIG_DFL)
    chosen = int(seed or time.time())
    print(f"seed {chosen}", flush=True)
    interrupter = Interrupter(prepare(Path(directory), user), chosen)
    kinds = list(interrupter.kinds())
    for number in range(int(rounds)):
        interrupter.send(interrupter.chance.choice(kinds))
        if number % 10 == 9:
            interrupter.check()
    for what, count in sorted(interrupter.counts.items()):
        print(f"{count:5} {what}")
    print(f"the slowest end took {interrupter.slowest:.1f} s after the last signal")


if __name__ == "__main__":
    main(*sys.argv[1:])
