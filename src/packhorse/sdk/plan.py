"""Defines the result of detection: pass with a build plan, or fail with a reason.

A buildpack's function `detect` returns it, and `sdk.program` writes it (buildpack.md "Phase #1: Detection").
The lifecycle matches what buildpacks provide with what they require.
"""

from __future__ import annotations

from collections.abc import Mapping

from packhorse.base.dataclass import dataclass, field
from packhorse.sdk import arguments


@dataclass(frozen=True, slots=True)
class Require:
    """One required name, with metadata for the buildpack that provides it."""

    name: str
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arguments.check_text("the name that is required", self.name, empty=False)
        arguments.check_type(f"the metadata of {self.name}", self.metadata, Mapping)
        arguments.check_toml(f"the metadata of {self.name}", self.metadata)


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What a buildpack provides and requires; the lifecycle tries `alternatives` in order after it."""

    provides: tuple[str, ...] = ()
    requires: tuple[Require, ...] = ()
    alternatives: tuple[BuildPlan, ...] = ()

    def __post_init__(self) -> None:
        arguments.check_texts("provides", self.provides)
        arguments.check_all("requires", self.requires, Require)
        arguments.check_all("alternatives", self.alternatives, BuildPlan)

    def table(self) -> dict[str, object]:
        """The plan as the TOML table of buildpack.md "Build Plan (TOML)"; empty lists are left out."""
        tables: dict[str, object] = {
            "provides": [{"name": name} for name in self.provides],
            "requires": [_require_table(require) for require in self.requires],
            "or": [alternative.table() for alternative in self.alternatives],
        }
        return {key: value for key, value in tables.items() if value}


@dataclass(frozen=True, slots=True)
class Pass:
    """This buildpack accepts the source (exit status 0)."""

    plan: BuildPlan = BuildPlan()

    def __post_init__(self) -> None:
        arguments.check_type("the argument of Pass", self.plan, BuildPlan)


@dataclass(frozen=True, slots=True)
class Fail:
    """This buildpack rejects the source (exit status 100); `reason` is one line for the user."""

    reason: str

    def __post_init__(self) -> None:
        arguments.check_text("the reason of Fail", self.reason)


def _require_table(require: Require) -> dict[str, object]:
    table: dict[str, object] = {"name": require.name}
    if require.metadata:
        table["metadata"] = dict(require.metadata)
    return table
