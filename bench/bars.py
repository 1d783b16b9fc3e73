"""Compares what was measured with target values that are not ratios. Used by `report` and `__main__`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NPM = "npm alone"
"""What npm itself takes: for an installation, and in a cold build for Node.js and npm as well."""
PROCESSES = "own processes"
"""The time that the buildpacks' own processes take, without any builder."""
TOOLS = "apt, dpkg and npm"
"""The time of a build in which apt, dpkg or npm runs."""
_SECONDS, _MEMORY, _WRITTEN = 0.5, 150.0, 1.0
_BUILDPACK, _ASKED, _FIRST = 5.0, 0.4, 25.0
_OURS = "packhorse"


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure, and what it may be at most."""

    what: str
    figure: float
    most: float
    unit: str

    @property
    def held(self) -> bool:
        """Whether it is no more."""
        return self.figure <= self.most


def bars(scenario: str, findings: Mapping[str, Any]) -> Iterator[Bar]:
    """Yields the bars of a scenario, for those of its findings that are there."""
    known = {"builds": _of_builds, "many": _of_many, "first": _of_first}
    return known[scenario](findings) if scenario in known else iter(())


def _of_many(findings: Mapping[str, Any]) -> Iterator[Bar]:
    """What each further buildpack adds to an unchanged build, and what it takes to ask a hundred."""
    unchanged = {}
    for title, finding in findings.items():
        count, _, step = title.partition(" buildpacks: ")
        if step == "nothing changed":
            unchanged[int(count)] = finding["series"]
        elif step == "asked":
            yield Bar(f"{count} buildpacks asked", _median(finding["series"], _OURS), _ASKED, "s")
    if len(unchanged) > 1:
        few, many = min(unchanged), max(unchanged)
        more, plain = (
            (_median(unchanged[many], name) - _median(unchanged[few], name)) / (many - few)
            for name in (_OURS, PROCESSES)
        )
        what = "each further buildpack, without its own processes"
        yield Bar(what, (more - plain) * 1000, _BUILDPACK, "ms")


def _of_first(findings: Mapping[str, Any]) -> Iterator[Bar]:
    for title, finding in findings.items():
        series = finding["series"]
        beyond = _median(series, _OURS) - _median(series, TOOLS)
        yield Bar(f"{title}, without apt, dpkg and npm", beyond, _FIRST, "s")


def _of_builds(findings: Mapping[str, Any]) -> Iterator[Bar]:
    """`application: step` is the title of each finding."""
    steps: dict[str, dict[str, Mapping[str, Any]]] = {}
    for title, finding in findings.items():
        application, _, step = title.rpartition(": ")
        steps.setdefault(application, {})[step] = finding["series"]
    for application, series in steps.items():
        yield from _of_application(application, series)
    unchanged = {
        name: _median(series["nothing changed"], _OURS)
        for name, series in steps.items()
        if "nothing changed" in series
    }
    small = next((took for name, took in unchanged.items() if name.startswith("Express")), None)
    for name, took in unchanged.items():
        if small and " MB " in name:
            yield Bar(f"{name}: nothing changed, through that of Express", took / small, 1.3, "×")


def _of_application(name: str, series: Mapping[str, Mapping[str, Any]]) -> Iterator[Bar]:
    if "nothing changed" in series:
        runs = series["nothing changed"]
        yield Bar(f"{name}: nothing changed", _median(runs, _OURS), _SECONDS, "s")
        written = _median(runs, _OURS, "written") / 1e6
        yield Bar(f"{name}: written when nothing changed", written, _WRITTEN, "MB")
    added = series.get("one dependency added", {})
    if NPM in added:
        beyond = _median(added, _OURS) - _median(added, NPM)
        yield Bar(f"{name}: one dependency added, without npm's own time", beyond, 1.0, "s")
    cold = series.get("cold", {})
    if NPM in cold and "pack" in cold:
        npm = _median(cold, NPM)
        ratio = (_median(cold, _OURS) - npm) / (_median(cold, "pack") - npm)
        yield Bar(f"{name}: cold without npm's own time, through pack's", ratio, 0.5, "×")
    memory = max(run["own"] for runs in series.values() for run in runs.get(_OURS, ())) / 1e6
    yield Bar(f"{name}: most memory of any build", memory, _MEMORY, "MB")


def _median(runs: Mapping[str, Any], name: str, kind: str = "value") -> float:
    return statistics.median(run[kind] for run in runs[name])
