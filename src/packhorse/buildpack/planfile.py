"""② The two plans a buildpack exchanges: what bin/detect writes, and what bin/build is given.

(buildpack.md "Build Plan (TOML)" and "Buildpack Plan (TOML)".)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from packhorse.base import gojson, gotoml
from packhorse.base.dataclass import dataclass
from packhorse.base.toml import Table, Warn


@dataclass(frozen=True, slots=True)
class Require:
    """A dependency somebody asks for, with what they want to say about it: None where the table is absent."""

    name: str
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PlanAlternative:
    """One alternative of a build plan: names provided and dependencies required."""

    provides: tuple[str, ...] = ()
    requires: tuple[Require, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanToml:
    """What one bin/detect wrote: alternatives, the top-level one first, then each `[[or]]` (B-026, B-027)."""

    alternatives: tuple[PlanAlternative, ...] = (PlanAlternative(),)

    @classmethod
    def parse(cls, data: bytes, source: str, *, warn: Warn | None = None) -> Self:
        """Reads a build plan; an empty file is one empty alternative. Raises InputError."""
        top = Table.read(data, source, warn)
        options = (_read_alternative(top), *(_read_alternative(table) for table in top.tables("or")))
        top.finish()
        return cls(options)


@dataclass(frozen=True, slots=True)
class BuildpackPlan:
    """The entries one bin/build has to meet (B-062)."""

    entries: tuple[Require, ...]

    def dump(self) -> bytes:
        """The file at CNB_BP_PLAN_PATH."""
        entries = [
            {"name": entry.name, "metadata": gojson.sort_maps(entry.metadata)} for entry in self.entries
        ]
        return gotoml.dumps({"entries": entries}) if entries else b""


def _read_alternative(table: Table) -> PlanAlternative:
    provides = tuple(entry.text("name", required=True) for entry in table.tables("provides"))
    return PlanAlternative(provides, read_requires(table, "requires"))


def read_requires(table: Table, key: str) -> tuple[Require, ...]:
    """The entries of a build plan's `[[requires]]`, or of the `[[bom]]` of other files, which is like it."""
    requires = []
    for entry in table.tables(key):
        if entry.has("version"):
            # Removed from the format; the reference refuses it in every API (B-158).
            entry.add_issue(
                f"{key}.version is no key of its own any more; put it into {key}.metadata", "version"
            )
        metadata = entry.mapping("metadata", finite=key == "bom") if entry.has("metadata") else None
        requires.append(Require(entry.text("name", required=True), metadata))
    return tuple(requires)
