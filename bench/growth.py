"""How the first build and one of nothing new grow with size, files, layers and buildpacks."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.builders import Builders
from bench.measure import Finding, Run, packhorse, timed
from bench.seed import seeded
from fakes.shell_buildpack import shell_buildpack

_LAYER = """
one() {{
    if [ ! -d "$CNB_LAYERS_DIR/$1" ]; then
        mkdir "$CNB_LAYERS_DIR/$1"
        cd "$CNB_LAYERS_DIR/$1"
        {make}
        cd "$OLDPWD"
    fi
    printf '[types]\\nlaunch = true\\ncache = true\\n' > "$CNB_LAYERS_DIR/$1.toml"
}}
amount=$(cat amount)
{layers}
"""
_FILES = "seq 1 $amount | split --lines=1 --suffix-length=6 --additional-suffix=.js - file"
_SIZE = "yes 'one line of text that is neither long nor short' | head --bytes=${amount}000000 > big"
_SMALL = "head --bytes=100000 /dev/zero > small"

_INSIDE, _DIRECTORIES = "buildpacks of a builder", "buildpacks as directories"
_AXES: Mapping[str, tuple[tuple[int, ...], str, str]] = {
    "MB in a layer": ((50, 100, 200, 400), _SIZE, "one data"),
    "files in a layer": ((3_000, 6_000, 12_000, 24_000), _FILES, "one data"),
    "layers": ((5, 10, 20, 40), _SMALL, "for n in $(seq $amount); do one layer$n; done"),
    _INSIDE: ((5, 10, 20, 40), _SMALL, "one data"),
    _DIRECTORIES: ((5, 10, 20, 40), _SMALL, "one data"),
}


def run(folder: Path, *, rounds: int, quick: bool = False) -> Iterator[Finding]:
    """All amounts in turn, then again, so that what disturbs the machine disturbs all."""
    environ = seeded(folder)
    builders = Builders(folder, environ)
    for across, (amounts, make, layers) in _AXES.items():
        took: dict[int, dict[str, list[Run]]] = {amount: {"first": [], "unchanged": []} for amount in amounts}
        script = _LAYER.format(make=make, layers=layers)
        chosen = amounts[:2] if quick else amounts
        inside = across == _INSIDE
        made = {amount: builders.make(amount, build=script) for amount in chosen if inside}
        for number in range(min(rounds, 2) + 1):
            for amount in chosen:
                ground = folder / f"{across.split()[-1]}-{amount}-{number}"
                count = amount if across == _DIRECTORIES else 1
                words = ["--builder", made[amount]] if inside else _directories(ground, count, script)
                first, *again = _build(ground, amount, words, environ)
                # The first round only warms up.
                if number:
                    took[amount]["first"].append(first)
                    took[amount]["unchanged"] += again
        for amount, series in took.items():
            for name, runs in series.items():
                if runs:
                    point = (across, float(amount))
                    yield Finding(f"{across}: {amount:,}, {name}", {name: runs}, point=point)


def _directories(ground: Path, count: int, script: str) -> list[str | Path]:
    words: list[str | Path] = []
    for number in range(count):
        words += ["--buildpack", shell_buildpack(ground / f"p{number}", f"bench/p{number}", build=script)]
    return words


def _build(
    ground: Path, amount: int, more: Sequence[str | Path], environ: Mapping[str, str]
) -> Iterator[Run]:
    """A first build and two unchanged ones; then everything goes."""
    source, name = ground / "app", f"bench/{ground.name}:1"
    source.mkdir(parents=True)
    (source / "amount").write_text(str(amount))
    words = ["build", name, "--path", source, "--pull-policy", "never", "--network", "host", *more]
    for _ in range(3):
        yield timed([*packhorse(), *words], environ)
    for act in (["rmi", name], ["gc"]):
        subprocess.run([*packhorse(), *act], env=environ, check=True, capture_output=True)
    shutil.rmtree(ground)
