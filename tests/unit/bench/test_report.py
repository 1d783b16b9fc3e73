"""What benchmarks say of their figures."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.bars import NPM, bars
from bench.measure import Finding, Run, timed
from bench.record import Record
from bench.report import exponent, write

SVG = "{http://www.w3.org/2000/svg}"


def runs(*seconds: float, own: int = 0, written: int = 0) -> list[Run]:
    return [Run(each, each, own, own=own, written=written) for each in seconds]


def recorded(folder: Path, name: str, *findings: Finding) -> Record:
    record = Record(folder)
    record.begin(name, "What it is.", "")
    record.versions({"packhorse": "packhorse, version 1"})
    for finding in findings:
        record.add(finding)
    return record


def test_the_median_the_spread_and_the_ratio_are_told(tmp_path: Path) -> None:
    series = {"packhorse": runs(1, 2, 9), "tar | sha256sum": runs(4, 4, 5)}
    recorded(tmp_path, "export", Finding("one layer", series, bar=0.4))
    write(tmp_path)
    ratio = "0.5 of tar \\| sha256sum (at most 0.4: **missed**)"
    said = (tmp_path / "results.md").read_text()
    assert f"| one layer (s) | 2 (1–9) | 4 (4–5) | {ratio} |" in said


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "linear or better"), (2.0, "**worse than linear**")])
def test_growth_is_the_exponent_of_the_amount(tmp_path: Path, power: float, verdict: str) -> None:
    amounts = (10.0, 20.0, 40.0)
    assert exponent([(amount, 0.01 * amount**power) for amount in amounts]) == pytest.approx(power)
    grown = [Finding(f"files: {n}", {"first": runs(0.01 * n**power)}, point=("files", n)) for n in amounts]
    recorded(tmp_path, "growth", *grown)
    write(tmp_path)
    assert f"| {power:.2f} | {verdict} |" in (tmp_path / "results.md").read_text()


def test_every_plot_is_xml_for_light_and_dark_pages(tmp_path: Path) -> None:
    recorded(tmp_path, "a", Finding("x: cold", {"packhorse": runs(1, 2), "<b>": runs(3)}))
    recorded(tmp_path, "b", *(Finding(str(n), {"first": runs(n)}, point=("MB", n)) for n in (1, 2)))
    write(tmp_path)
    plots = sorted(tmp_path.glob("*.svg"))
    assert [plot.name for plot in plots] == ["a-1.svg", "b-1.svg"]
    for plot in plots:
        text = "".join(ElementTree.parse(plot).getroot().itertext())
        assert "prefers-color-scheme: dark" in text
    assert "<b>" in "".join(ElementTree.parse(plots[0]).getroot().itertext())


def test_the_axis_is_labelled_and_begins_and_ends_at_a_labelled_tick(tmp_path: Path) -> None:
    recorded(tmp_path, "push", Finding("all new", {"packhorse": runs(0.14, 0.21), "skopeo": runs(7.5)}))
    grown = (Finding(str(n), {"first": runs(n)}, point=("MB", float(n))) for n in (50, 430))
    recorded(tmp_path, "growth", *grown)
    write(tmp_path)
    plots = {path.stem: ElementTree.parse(path).getroot() for path in tmp_path.glob("*.svg")}
    texts = {name: [text.text or "" for text in plot.iter(f"{SVG}text")] for name, plot in plots.items()}
    assert "Push an image" in texts["push"] and "seconds, on a logarithmic scale" in texts["push"]
    assert "MB, on a logarithmic scale" in texts["growth-1"] and {"50", "430"} <= {*texts["growth-1"]}
    for name, plot in plots.items():
        grid = [line for line in plot.iter(f"{SVG}line") if line.get("class") == "grid"]
        assert len(grid) == sum(text.replace(".", "").isdecimal() for text in _labels(plot)), name
    ticks = sorted(map(float, _labels(plots["push"])))
    assert ticks[0] <= 0.14 and ticks[-1] >= 7.5


def _labels(plot: ElementTree.Element) -> list[str]:
    """The texts beside ticks, which are numbers of the colour of the axis."""
    soft = (text.text or "" for text in plot.iter(f"{SVG}text") if text.get("class") == "soft")
    return [text for text in soft if text[0].isdecimal()]


def test_what_was_measured_before_stays_until_the_same_scenario_has_found_something(tmp_path: Path) -> None:
    recorded(tmp_path, "push", Finding("all new", {"packhorse": runs(1)}))
    record = Record(tmp_path)
    record.begin("pull", "What it is.", "")
    record.add(Finding("all layers", {"packhorse": runs(2)}))
    record.begin("push", "What it is.", "")
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["push", "pull"]


def test_what_a_build_takes_beyond_npm_is_held_against_packs_and_against_a_second(tmp_path: Path) -> None:
    cold = {"packhorse": runs(5, own=140_000_000), "pack": runs(8), NPM: runs(3)}
    added = {"packhorse": runs(5.5), NPM: runs(3)}
    same = {"packhorse": runs(0.4, written=500_000)}
    found = (("cold", cold), ("one dependency added", added), ("nothing changed", same))
    record = recorded(tmp_path, "builds", *(Finding(f"Express: {step}", series) for step, series in found))
    held = {
        bar.what: (bar.figure, bar.held) for bar in bars("builds", record.scenarios["builds"]["findings"])
    }
    assert held == {
        "Express: nothing changed": (0.4, True),
        "Express: written when nothing changed": (0.5, True),
        "Express: one dependency added, without npm's own time": (2.5, False),
        "Express: cold without npm's own time, through pack's": (0.4, True),
        "Express: most memory of any build": (140.0, True),
    }


@pytest.mark.system
def test_what_a_programs_children_write_and_hold_counts_as_its_own() -> None:
    script = (
        'python3 -c "import os, time; data = bytearray(40_000_000); time.sleep(2); '
        "os.write(os.open('big', os.O_CREAT | os.O_WRONLY), data)\""
    )
    # On a disk: what is written to a file system in memory is not counted.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        took = timed(["sh", "-c", f"{script}; true"], {"PATH": "/usr/bin:/bin"}, folder=Path(folder))
    assert 2 < took.seconds < 60
    assert 40_000_000 <= took.written < 60_000_000
    assert 40_000_000 <= took.own < 120_000_000


STAYS_BEHIND = """
import sys, time
from pathlib import Path
# `timed` reaps a program when it has taken the time.
for _ in range(1000):
    if not Path("/proc", sys.argv[1]).exists():
        break
    time.sleep(0.02)
Path(sys.argv[2]).write_text(str(time.perf_counter()))
"""


@pytest.mark.system
def test_what_a_program_leaves_behind_is_over_before_the_next_and_not_measured(tmp_path: Path) -> None:
    ended, script = tmp_path / "ended", 'flock "$0" "$1" -c "$2" $$ "$3" >/dev/null 2>&1 &'
    with tempfile.NamedTemporaryFile() as held:
        # It has the lock until it ends.
        words = ["sh", "-c", script, held.name, sys.executable, STAYS_BEHIND, ended]
        started = time.perf_counter()
        run = timed(words, {"PATH": os.environ["PATH"]})
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert started + run.seconds < float(ended.read_text())


def test_what_a_further_buildpack_adds_is_told_without_its_own_processes() -> None:
    findings = {
        "10 buildpacks: nothing changed": {"packhorse": 0.5, "own processes": 0.1},
        "40 buildpacks: nothing changed": {"packhorse": 0.77, "own processes": 0.25},
        "100 buildpacks: asked": {"packhorse": 0.5},
    }
    recorded_findings = {
        title: {"series": {name: [{"value": seconds}] for name, seconds in series.items()}}
        for title, series in findings.items()
    }
    held = {bar.what: (bar.figure, bar.held) for bar in bars("many", recorded_findings)}
    assert held == {
        "each further buildpack, without its own processes": (pytest.approx(4), True),
        "100 buildpacks asked": (0.5, False),
    }
