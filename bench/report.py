"""Tables and plots of what was measured: results.md and SVGs beside results.json. Called by `__main__`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import bars, plot
from bench.plot import Bar, Line, shown
from bench.record import Record

_TITLES = {
    "export": "Pack and hash a layer",
    "unpack": "Unpack a layer and an image",
    "pull": "Pull an image",
    "push": "Push an image",
    "detection": "Ask many buildpacks",
    "growth": "Builds of growing size",
    "many": "Builders with many buildpacks",
    "first": "The first build of a machine",
    "rebase_one": "Rebase one image in a registry",
    "rebase_many": "Rebase a hundred images in a registry",
    "rebase_memory": "Memory of a rebase",
    "rebase_engine": "Rebase an image in a container engine",
    "engine": "Write an image into a container engine",
    "builds": "Build an application, and build it again",
}
"""What headings and plots call each scenario."""
_COLOURS = {"packhorse": 0, "pack": 1, "docker": 2, "buildah": 3}
_MEGA = 1e6

Findings = Mapping[str, Any]
Runs = Sequence[Mapping[str, float]]


def write(folder: Path) -> None:
    """Writes them of all there is."""
    record = Record(folder)
    text = [
        "# What was measured",
        "",
        "Written by `make bench`; [README.md](README.md) says how it is measured. Figures are the",
        "median (least–most); a ratio is the median of the first column through another's, of one run.",
    ]
    for name, scenario in record.scenarios.items():
        about = f"Scenario `{name}`. {scenario['about']}"
        text += ["", f"## {_title(name)}", "", about, "", *_about(scenario), ""]
        text += list(_scenario(folder, name, scenario["findings"]))
        if held := list(bars.bars(name, scenario["findings"])):
            text += ["", "### Bars", "", *_held(held)]
    if record.scenarios:
        (folder / "results.md").write_text("\n".join(text) + "\n")


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _about(scenario: Mapping[str, Any]) -> Iterator[str]:
    said = f"{scenario['day']}; {scenario['machine']}."
    yield f"{said} **{scenario['settings'].capitalize()}.**" if scenario["settings"] else said
    used = {name for finding in scenario["findings"].values() for name in finding["series"]}
    words = " ".join(used)
    told = [
        f"{name}: {version}"
        for name, version in scenario.get("versions", {}).items()
        if name in words or name in ("packhorse", "Python") or (name == "docker" and "pack" in used)
    ]
    yield ""
    yield "; ".join(told) + "."


def _held(found: Sequence[bars.Bar]) -> Iterator[str]:
    yield "| | measured | at most | |"
    yield "|---|---:|---:|---|"
    for bar in found:
        verdict = "held" if bar.held else "**missed**"
        yield f"| {bar.what} | {shown(bar.figure)} {bar.unit} | {shown(bar.most)} {bar.unit} | {verdict} |"


def _scenario(folder: Path, name: str, findings: Findings) -> Iterator[str]:
    grown = {title: finding for title, finding in findings.items() if finding["point"]}
    plain = {title: finding for title, finding in findings.items() if not finding["point"]}
    if grown:
        yield from _growth(folder, name, grown)
    parts: dict[str, dict[str, Any]] = {}
    for title, finding in plain.items():
        about, _, step = title.rpartition(": ")
        parts.setdefault(about, {})[step] = finding
    for number, (about, steps) in enumerate(parts.items()):
        if about:
            yield from ("", f"### {about}", "")
        yield from _times(steps)
        picture = f"{name}-{number + 1}.svg" if about else f"{name}.svg"
        if all(finding["unit"] == "s" for finding in steps.values()):
            title = ": ".join(filter(None, (_title(name), about)))
            (folder / picture).write_text(_bars(title, steps))
            yield from ("", f"![{title}]({picture})")
        if about:
            yield from ("", *_resources(steps))


def _times(steps: Findings) -> Iterator[str]:
    """A row for each: who took how long, and the ratios, with the bar where there is one."""
    names = list(dict.fromkeys(name for finding in steps.values() for name in finding["series"]))
    yield "| | " + " | ".join(map(_escaped, names)) + " | ratio |"
    yield "|---|" + "---:|" * len(names) + "---|"
    for step, finding in steps.items():
        cells = [_cell(finding["series"].get(name, ())) for name in names]
        yield f"| {step} ({finding['unit']}) | " + " | ".join(cells) + f" | {_ratios(finding)} |"


def _cell(runs: Runs) -> str:
    if not runs:
        return "–"
    values = sorted(run["value"] for run in runs)
    spread = f" ({shown(values[0])}–{shown(values[-1])})" if len(values) > 1 else ""
    return f"{shown(statistics.median(values))}{spread}"


def _ratios(finding: Mapping[str, Any]) -> str:
    medians = {name: _median(runs) for name, runs in finding["series"].items()}
    first, *others = medians
    said = []
    for other in others:
        if medians[other]:
            ratio = medians[first] / medians[other]
            bar = finding["limits"].get(other)
            held = (
                "" if bar is None else f" (at most {shown(bar)}: {'held' if ratio <= bar else '**missed**'})"
            )
            said.append(f"{shown(ratio)} of {_escaped(other)}{held}")
    return ", ".join(said)


def _escaped(name: str) -> str:
    return name.replace("|", "\\|")


def _median(runs: Runs) -> float:
    return statistics.median(run["value"] for run in runs) if runs else 0.0


def _resources(steps: Findings) -> Iterator[str]:
    yield "Most memory, read by calls, written to disk, in MB:"
    yield ""
    names = list(dict.fromkeys(name for finding in steps.values() for name in finding["series"]))
    yield "| | " + " | ".join(names) + " |"
    yield "|---|" + "---:|" * len(names)
    for step, finding in steps.items():
        cells = []
        for name in names:
            runs = finding["series"].get(name, ())
            kinds = [("own", max), ("read", statistics.median), ("written", statistics.median)]
            parts = [shown(of([run[kind] for run in runs]) / _MEGA) for kind, of in kinds if runs]
            cells.append(" / ".join(parts) or "–")
        yield f"| {step} | " + " | ".join(cells) + " |"


def _bars(title: str, steps: Findings) -> str:
    groups = {}
    for step, finding in steps.items():
        group = []
        for name, runs in finding["series"].items():
            values = [run["value"] for run in runs]
            if values:
                first = _median(next(iter(finding["series"].values())))
                times = f"  ({shown(statistics.median(values) / first)} ×)" if group and first else ""
                group.append(Bar(name, statistics.median(values), min(values), max(values), times))
        groups[step] = group
    return plot.bars(title, groups, "seconds", _COLOURS | dict.fromkeys(_first_names(steps), 0))


def _first_names(steps: Findings) -> set[str]:
    return {next(iter(finding["series"])) for finding in steps.values()}


def _growth(folder: Path, name: str, grown: Findings) -> Iterator[str]:
    """A plot for each thing that grows, and the exponents."""
    axes: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for finding in grown.values():
        across, amount = finding["point"]
        for program, runs in finding["series"].items():
            axes.setdefault(across, {}).setdefault(program, []).append((amount, _median(runs)))
    yield "| with | of | points | exponent | |"
    yield "|---|---|---|---:|---|"
    pictures = []
    for number, (across, programs) in enumerate(axes.items()):
        drawn = []
        for program, points in programs.items():
            power = exponent(points)
            verdict = "linear or better" if power <= _LINEAR else "**worse than linear**"
            told = ", ".join(f"{shown(x)}: {shown(y)} s" for x, y in sorted(points))
            yield f"| {across} | {program} | {told} | {power:.2f} | {verdict} |"
            drawn.append(Line(program, points, f"exponent {power:.2f}, {verdict.strip('*')}"))
        picture = f"{name}-{number + 1}.svg"
        (folder / picture).write_text(plot.lines(f"How time grows with {across}", drawn, across, "seconds"))
        pictures.append(f"![{across}]({picture})")
    yield ""
    yield "\n\n".join(pictures)


_LINEAR = 1.1  # what noise may add to 1


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """Of the power of the amount that the time grows with, by least squares over the logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in logs}) < 2:
        return 0.0
    slope = statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope
    return round(slope, 2) + 0.0  # never -0.00
