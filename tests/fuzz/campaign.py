"""A fuzz campaign: `PYTHONPATH=src:tests python tests/fuzz/campaign.py SECONDS FINDINGS [TARGET…]`.

Runs one target after the other, each for SECONDS in a process of its own, and keeps in the directory FINDINGS
what it found and the inputs it grew from the seeds. Guided by coverage where `atheris` is installed
(Apache-2.0, a tool of development alone: `pip install atheris`), else by hypothesis. An input that led to a
defect goes into `tests/fuzz/corpus/TARGET/`, where `test_targets.py` runs it ever after.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_SLOWEST = 10  # seconds that one input may take
_MEMORY = 1024  # MiB
_WORD = re.compile(rb"[A-Za-z0-9_+./-]{2,}|[^A-Za-z0-9\s]")


def main(words: list[str]) -> int:
    """Runs the targets named, all by default; the exit status says whether one of them has failed."""
    from fuzz.targets import TARGETS  # not above: the processes that fuzz import it under instrumentation

    seconds, findings, *names = words
    failed = []
    for name in names or TARGETS:
        place = Path(findings) / name
        place.mkdir(parents=True, exist_ok=True)
        print(f"== {name}", flush=True)
        status = subprocess.call([sys.executable, __file__, "--one", name, seconds, str(place)])
        failed += [name] if status else []
    print("failed:", *failed or ["none"])
    return bool(failed)


def _one(name: str, seconds: int, place: Path) -> None:
    try:
        import atheris
    except ImportError:
        _by_hypothesis(name, seconds)
        return
    with atheris.instrument_imports(include=["packhorse", "tomllib", "zstandard"]):
        from fuzz.targets import CORPUS, TARGETS
    target = TARGETS[name]
    (place / "inputs").mkdir(exist_ok=True)
    for number, seed in enumerate((*target.seeds, *CORPUS.get(name, ()))):
        (place / "inputs" / f"seed-{number}").write_bytes(seed)
    words = {word for seed in target.seeds for word in _WORD.findall(seed)}
    lines = sorted("".join(f"\\x{byte:02x}" for byte in word) for word in words if len(word) < 64)
    (place / "words").write_text("".join(f'"{line}"\n' for line in lines))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={_SLOWEST}",
        f"-rss_limit_mb={_MEMORY}",
        "-max_len=16384",
        f"-dict={place}/words",
        f"-artifact_prefix={place}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(place / "inputs")], target.run)
    atheris.Fuzz()


def _by_hypothesis(name: str, seconds: int) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    from fuzz.mutation import mutated
    from fuzz.targets import TARGETS

    profile = settings(
        max_examples=1000,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.target, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    run: Callable[[], None] = profile(given(mutated(TARGETS[name].seeds))(TARGETS[name].run))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        run()


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        _one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
    else:
        sys.exit(main(sys.argv[1:]))
