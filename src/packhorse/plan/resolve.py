"""② Which buildpacks that passed detection take part, by what they provide and require.

(buildpack.md "Phase #1: Detection".)

Pure, and its result carries its reasons: a failing group can be explained to a person.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from packhorse.base.dataclass import dataclass, field
from packhorse.buildpack.descriptor import Ref
from packhorse.buildpack.planfile import PlanAlternative, PlanToml, Require

_REQUIRES = "requires"


@dataclass(frozen=True, slots=True)
class PassedBuildpack:
    """A buildpack whose bin/detect passed, with the plan it wrote."""

    ref: Ref
    plan: PlanToml


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One dependency of the resolved plan: who provides it, and what was asked (P-185)."""

    name: str
    providers: tuple[Ref, ...]
    requires: tuple[Require, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome: `group` and `entries` of the first trial that holds, or none; `reasons` say what was
    dropped and why.
    """

    group: tuple[Ref, ...] = ()
    entries: tuple[PlanEntry, ...] = ()
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.group)

    @property
    def unmet(self) -> tuple[str, ...]:
        """The reasons that are requirements nobody meets."""
        return tuple(dict.fromkeys(reason for reason in self.reasons if f" {_REQUIRES} " in reason))


@dataclass(frozen=True, slots=True)
class _Candidate:
    ref: Ref
    section: PlanAlternative
    optional: bool


@dataclass(slots=True)
class _Dependency:
    providers: list[Ref] = field(default_factory=list)
    requires: list[Require] = field(default_factory=list)
    unused: list[_Candidate] = field(default_factory=list)
    unmet: list[_Candidate] = field(default_factory=list)


def resolve(passed: Sequence[PassedBuildpack]) -> Resolution:
    """Tries every combination of plan alternatives, left to right, depth first (B-027); the first that holds
    wins.
    """
    reasons: list[str] = []
    for candidates in _trials(passed):
        group, entries = _trial(candidates, reasons)
        if group:
            return Resolution(group, entries, tuple(reasons))
    return Resolution(reasons=tuple(dict.fromkeys(reasons)))


def _trials(passed: Sequence[PassedBuildpack]) -> Iterator[list[_Candidate]]:
    # As the reference does: an optional buildpack may be dropped only with its last alternative, so that the
    # others are tried first.
    choices = [
        [
            _Candidate(one.ref, section, one.ref.optional and index == len(one.plan.alternatives) - 1)
            for index, section in enumerate(one.plan.alternatives)
        ]
        for one in passed
    ]
    for combination in itertools.product(*choices):
        yield list(combination)


def _trial(candidates: list[_Candidate], reasons: list[str]) -> tuple[tuple[Ref, ...], tuple[PlanEntry, ...]]:
    while True:
        dependencies = _bind(candidates)
        dropped = _first_misfit(dependencies)
        if dropped is None:
            break
        candidate, reason = dropped
        reasons.append(f"{candidate.ref} {reason}")
        if not candidate.optional:
            return (), ()
        candidates = [other for other in candidates if other is not candidate]
    entries = tuple(
        PlanEntry(name, tuple(dependency.providers), tuple(dependency.requires))
        for name, dependency in dependencies.items()
        if dependency.requires
    )
    return tuple(candidate.ref for candidate in candidates), entries


def _bind(candidates: Sequence[_Candidate]) -> dict[str, _Dependency]:
    """Binds each requirement to all providers so far; within one buildpack, provides count before
    requires.
    """
    dependencies: dict[str, _Dependency] = {}
    for candidate in candidates:
        for name in candidate.section.provides:
            dependencies.setdefault(name, _Dependency()).unused.append(candidate)
        for require in candidate.section.requires:
            dependency = dependencies.setdefault(require.name, _Dependency())
            dependency.providers += [provider.ref for provider in dependency.unused]
            dependency.unused.clear()
            if dependency.providers:
                dependency.requires.append(require)
            else:
                dependency.unmet.append(candidate)
    return dependencies


def _first_misfit(dependencies: dict[str, _Dependency]) -> tuple[_Candidate, str] | None:
    """A requirement nobody meets (B-029, B-032) before a provision nobody uses (B-028, B-030), required ones
    first.
    """
    misfits = [
        *(
            (candidate, f"{_REQUIRES} {name}")
            for name, one in dependencies.items()
            for candidate in one.unmet
        ),
        *(
            (candidate, f"provides unused {name}")
            for name, one in dependencies.items()
            for candidate in one.unused
        ),
    ]
    return min(misfits, key=lambda misfit: misfit[0].optional, default=None)
