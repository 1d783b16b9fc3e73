"""What builds have to reach, held against what was measured. Called by `report` and `__main__`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NPM = "npm alone"
"""What npm itself takes: for an installation, and in a cold build for Node.js and npm as well."""
_SECONDS, _MEMORY, _WRITTEN = 0.5, 150.0, 1.0
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


def bars(findings: Mapping[str, Any]) -> Iterator[Bar]:
    """Those of the findings of `builds` that are there; `application: step` is the title of each."""
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
