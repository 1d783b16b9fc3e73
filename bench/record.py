"""What was measured, as it is kept: a file of JSON, whole at every step. Called by `__main__`, `report`."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measure import Finding

NAME = "results.json"


class Record:
    """The results in a directory. A scenario that is measured anew replaces what it had there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self.scenarios: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def begin(self, scenario: str, about: str, settings: str) -> None:
        """A scenario starts; only what it finds makes that of before go."""
        self._new = {"about": about, "settings": settings, "machine": machine(), "findings": {}}
        self._new["day"] = time.strftime("%Y-%m-%d")
        self._name = scenario

    def versions(self, said: dict[str, str]) -> None:
        """What the programs of the scenario say they are."""
        self._new["versions"] = said

    def add(self, finding: Finding) -> None:
        """Keeps a finding, in place of one of the same title."""
        series = {
            name: [{**asdict(run), "value": finding.value(run)} for run in runs]
            for name, runs in finding.series.items()
        }
        kept = {"unit": finding.unit, "series": series, "limits": finding.limits, "point": finding.point}
        self._new["findings"][finding.title] = kept
        self.scenarios[self._name] = self._new
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(self.scenarios, indent=1) + "\n")
        beside.replace(self._path)


def machine() -> str:
    """What it runs on, and how busy that is."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    processor = model[1].strip() if model else platform.machine()
    return (
        f"{os.cpu_count()} processors ({processor}), {memory:.0f} GB of memory, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )
