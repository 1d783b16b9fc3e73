"""Runs the scenarios that are named, or all, and prints what each measured."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
from pathlib import Path

# What tests and benchmarks both need: a registry to talk to, images to put there.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SCENARIOS = ("push", "rebase_one", "rebase_many", "rebase_memory", "rebase_engine")


def main() -> int:
    """The exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs (5)")
    arguments = parser.parse_args()
    unknown = sorted({*arguments.names} - {*SCENARIOS})
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}")
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, Linux {platform.release()}")
    missed = 0
    for name in arguments.names or SCENARIOS:
        scenario = importlib.import_module(f"bench.{name}")
        print(f"\n{name}: {scenario.__doc__.splitlines()[0]}", flush=True)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for finding in scenario.run(Path(folder), rounds=arguments.rounds):
                print("\n".join(f"  {line}" for line in finding.lines()), flush=True)
                missed += finding.missed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
