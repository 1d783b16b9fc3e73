"""Runs the scenarios that are named, or all; prints what each measured, and writes tables and plots of it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# What tests and benchmarks both need: a registry to talk to, images to put there.
sys.path.insert(0, str(_ROOT / "tests"))

from bench.bars import bars  # noqa: E402
from bench.measure import Failed  # noqa: E402
from bench.record import Record, machine  # noqa: E402
from bench.report import write  # noqa: E402
from bench.versions import versions  # noqa: E402

SCENARIOS = (
    *("export", "unpack", "pull", "push", "detection", "growth", "many"),
    *("rebase_one", "rebase_many", "rebase_memory", "rebase_engine", "engine", "builds", "first"),
)


def main() -> int:
    """The exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program runs, at most (5)")
    parser.add_argument("--quick", action="store_true", help="everything a tenth as large, to try it")
    parser.add_argument("--minutes", type=float, default=15, help="for builds; then packhorse alone (15)")
    parser.add_argument("--output", type=Path, help="where tables and plots go (docs/benchmarks)")
    parser.add_argument("--report", action="store_true", help="only write them again, from the results there")
    arguments = parser.parse_args()
    unknown = sorted({*arguments.names} - {*SCENARIOS})
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}")
    output = arguments.output or _ROOT / "docs/benchmarks"
    if arguments.report:
        write(output)
        return 0
    print(machine())
    # What was measured until then is kept and shown, and the programs that run in the background are ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    record = Record(output)
    missed = 0
    try:
        for name in arguments.names or SCENARIOS:
            missed += _run(name, record, arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        write(output)
    return 1 if missed else 0


def _run(name: str, record: Record, arguments: argparse.Namespace) -> int:
    """One scenario; the number of bars it has missed."""
    scenario = importlib.import_module(f"bench.{name}")
    about = scenario.__doc__.splitlines()[0]
    print(f"\n{name}: {about}", flush=True)
    taken = inspect.signature(scenario.run).parameters
    until = time.monotonic() + arguments.minutes * 60
    chosen = {"rounds": arguments.rounds, "quick": arguments.quick, "until": until}
    record.begin(name, about, "a tenth of the size" if arguments.quick and "quick" in taken else "")
    record.versions(versions())
    missed = 0
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        asked = {key: chosen[key] for key in chosen if key in taken}
        try:
            # Closed before its folder goes: it has programs running there.
            with closing(scenario.run(Path(folder), **asked)) as findings:
                for finding in findings:
                    record.add(finding)
                    if finding.last:
                        print("\n".join(f"  {line}" for line in finding.lines()), flush=True)
                        missed += finding.missed
        except (Failed, subprocess.CalledProcessError, AssertionError) as failure:
            said = getattr(failure, "stderr", None) or ""
            print(f"  {failure}\n{said}", file=sys.stderr, flush=True)
            missed += 1
    found = record.scenarios.get(name, {}).get("findings", {})
    for bar in (bar for bar in bars(name, found) if not bar.held):
        print(f"  missed: {bar.what}: {bar.figure:.3g} {bar.unit}, at most {bar.most:g}", flush=True)
        missed += 1
    return missed


if __name__ == "__main__":
    sys.exit(main())
