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
from pathlib import Path

from fakes.users import RANGE, SINGLE
from torture.crowd import Crowds
from torture.faults import KILL, Faults
from torture.full import Full
from torture.ground import prepare
from torture.kill import KINDS, Killer
from torture.power import powered

_COMMANDS = ("build", "cold", "copy", "gc")
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def _kill(directory: Path, user: str, rounds: int, seed: int) -> None:
    killer = Killer(prepare(directory, user), seed)
    _counted(lambda: killer.run(rounds, KINDS), killer.counts)


def _faults(directory: Path, user: str, rounds: int, seed: int) -> None:
    """Of each command and error single faults, and the whole disk from some call on; kills at calls."""
    faults = Faults(prepare(directory, user), seed)

    def run() -> None:
        for command in _COMMANDS:
            for error in _ERRORS:
                faults.run(command, rounds, error, reads=error == errno.EIO)
            faults.run(command, rounds, errno.ENOSPC, ever=True)
            faults.run(command, rounds, KILL)

    _counted(run, faults.counts)
    print(*faults.odd, sep="\n")


def _power(directory: Path, user: str, rounds: int, seed: int) -> None:
    """In a mount namespace of its own, so that nobody else holds the file system."""
    with powered(directory, seed) as power:
        _counted(lambda: power.run(rounds), power.counts)


def _full(directory: Path, user: str, rounds: int, seed: int) -> None:
    full = Full(directory, user, seed)
    _counted(lambda: full.run(rounds), full.counts)


def _crowd(directory: Path, user: str, rounds: int, seed: int) -> None:
    print(*Crowds(prepare(directory, user)).run(16), sep="\n")


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
    asked = parser.parse_args()
    if "TORTURE_ALONE" not in os.environ:
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "torture"]
        environ = os.environ | {"TORTURE_ALONE": "1"}
        sys.exit(subprocess.run([*words, *sys.argv[1:]], env=environ).returncode)
    for what in _WHAT if asked.what == "all" else [asked.what]:
        for user in ["root"] if what == "power" else asked.user or ["root", RANGE, SINGLE]:
            print(f"{what}, as {user}, {asked.rounds} rounds, seed {asked.seed}", flush=True)
            with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as directory:
                Path(directory).chmod(0o755)
                _WHAT[what](Path(directory), "" if user == "root" else user, asked.rounds, asked.seed)
                subprocess.run(["rm", "-rf", *Path(directory).iterdir()], check=True)


if __name__ == "__main__":
    main()
