"""`python -m torture WHAT`: the store and everything above it under kill -9, power cuts, faults and crowds.

With tests/ on PYTHONPATH; needs root, since it makes users, mounts and a place in /var/tmp. `all` at a
hundred rounds takes some hours. What fails is an AssertionError; what passes is counted.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fakes.users import RANGE, SINGLE
from torture.crowd import Crowds
from torture.faults import KILL, Faults, Injector
from torture.full import Full
from torture.ground import prepare
from torture.kill import Killer
from torture.power import powered

_COMMANDS = ("build", "cold", "copy", "gc")
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


@dataclass(frozen=True)
class Asked:
    """What is to be done: as whom ("" for root), how often, with which packhorse (None: one made anew)."""

    user: str
    rounds: int
    seed: int
    program: Path | None


def _kill(here: Path, asked: Asked) -> None:
    killer = Killer(prepare(here, asked.user, program=asked.program), asked.seed)
    _counted(lambda: killer.run(asked.rounds), killer.counts)


def _faults(here: Path, asked: Asked) -> None:
    """Of each command and error single faults, and the whole disk from some call on; kills at calls."""
    ground = prepare(here, asked.user, program=asked.program)
    faults = Faults(ground, Injector(ground), asked.seed)

    def run() -> None:
        for command in _COMMANDS:
            for error in _ERRORS:
                faults.run(command, asked.rounds, error, reads=error == errno.EIO)
            faults.run(command, asked.rounds, errno.ENOSPC, ever=True)
            faults.run(command, asked.rounds, KILL)

    _counted(run, faults.counts)
    print(*faults.odd, sep="\n")


def _power(here: Path, asked: Asked) -> None:
    with powered(here, asked.seed, asked.program) as power:
        _counted(lambda: power.run(asked.rounds), power.counts)


def _full(here: Path, asked: Asked) -> None:
    full = Full(here, asked.user, asked.seed, asked.program)
    _counted(lambda: full.run(asked.rounds), full.counts)


def _crowd(here: Path, asked: Asked) -> None:
    ground = prepare(here, asked.user, program=asked.program)
    print(*Crowds(ground, Injector(ground)).run(16), sep="\n")


def _counted(run: Callable[[], None], counts: Counter[str]) -> None:
    try:
        run()
    finally:
        print(*(f"  {count:5} {what}" for what, count in sorted(counts.items())), sep="\n")


_WHAT = {"kill": _kill, "faults": _faults, "power": _power, "full": _full, "crowd": _crowd}


def main() -> None:
    """Runs what was asked for, each with a directory of its own."""
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("what", choices=[*_WHAT, "all"])
    parser.add_argument("--rounds", type=int, default=100, help="how often each thing is done  [100]")
    parser.add_argument("--user", choices=["root", RANGE, SINGLE], action="append", help="[all three]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", type=Path, help="an installed packhorse  [one of this source]")
    given = parser.parse_args()
    if "TORTURE_ALONE" not in os.environ:
        # In a mount namespace of its own, so that nobody else holds its file systems.
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "torture"]
        environ = os.environ | {"TORTURE_ALONE": "1"}
        sys.exit(subprocess.run([*words, *sys.argv[1:]], env=environ).returncode)
    for what in _WHAT if given.what == "all" else [given.what]:
        for user in ["root"] if what == "power" else given.user or ["root", RANGE, SINGLE]:
            print(f"{what}, as {user}, {given.rounds} rounds, seed {given.seed}", flush=True)
            here = Path(tempfile.mkdtemp(dir="/var/tmp"))
            here.chmod(0o755)
            asked = Asked("" if user == "root" else user, given.rounds, given.seed, given.program)
            try:
                _WHAT[what](here, asked)
            finally:
                subprocess.run(["rm", "-rf", here], check=True)


if __name__ == "__main__":
    main()
