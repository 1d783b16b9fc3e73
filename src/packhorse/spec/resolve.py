"""② Decides which group of buildpacks builds, without running any of them. Called by `lifecycle.detect`.

`matches` compares a buildpack's targets with those of the base images (buildpack.md "Targets"). `groups`
turns an order with composite buildpacks into groups of components (buildpack.md "Order Resolution").
`resolve` takes the buildpacks whose detection passed, and drops those whose plan does not hold (buildpack.md
"Phase #1: Detection"). Its result has the reasons, so that a user learns why a group failed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from packhorse.base.dataclass import dataclass, field
from packhorse.base.target import Distro, Target
from packhorse.errors import InputError, NotFoundError
from packhorse.spec.buildpack_files import PlanAlternative, PlanToml, Require
from packhorse.spec.buildpack_toml import BuildpackTarget, Descriptor, Group, Order, Ref


def matches(descriptor: Descriptor, target: Target) -> bool:
    """Returns whether a target of the buildpack fits. Without targets it runs on any linux (B-150)."""
    declared = descriptor.targets or (BuildpackTarget(os="linux"),)
    return any(_fits(one, target) for one in declared)


def explain(descriptor: Descriptor, target: Target) -> str:
    """Returns a sentence for the user: the targets that the buildpack needs, and those of the images."""
    asked = "; ".join(_spell(one) for one in descriptor.targets) or "linux"
    distro = f" {target.distro.name} {target.distro.version}".rstrip() if target.distro else ""
    return f"it runs on {asked}, the base images are {target}{distro}"


def _fits(declared: BuildpackTarget, target: Target) -> bool:
    pairs = ((declared.os, target.os), (declared.arch, target.arch), (declared.variant, target.variant))
    if not all(_same_or_empty(left, right) for left, right in pairs):
        return False
    return not declared.distros or _distro_fits(declared.distros, target.distro)


def _distro_fits(declared: Sequence[Distro], distro: Distro | None) -> bool:
    return distro is not None and any(
        _same_or_empty(one.name, distro.name) and _same_or_empty(one.version, distro.version)
        for one in declared
    )


def _same_or_empty(left: str, right: str) -> bool:
    return not left or not right or left == right


def _spell(one: BuildpackTarget) -> str:
    named = f"{one.os}/{one.arch}/{one.variant}".rstrip("/").split("/")
    parts = "/".join(part or "any" for part in named)
    distros = ", ".join(f"{distro.name} {distro.version}".strip() for distro in one.distros)
    return f"{parts} ({distros})" if distros else parts


Lookup = Callable[[Ref], Descriptor]
"""Returns the descriptor of a buildpack that an order names. Raises NotFoundError."""


def groups(order: Order, lookup: Lookup) -> Iterator[Group]:
    """Yields each group of component buildpacks, first the one to try first (B-038, B-039).

    The search goes depth first and from left to right. A group has an id only once (B-018). Versions come
    from the descriptors. Raises InputError for a composite buildpack that contains itself.
    """
    yield from _order(_within(order, ()), (), (), lookup, optional=False)


@dataclass(frozen=True, slots=True)
class _Element:
    """An entry of a group, and the ids of the composite buildpacks around it, outermost first."""

    ref: Ref
    inside: tuple[str, ...]


_Elements = tuple[_Element, ...]


def _within(order: Order, inside: tuple[str, ...]) -> tuple[_Elements, ...]:
    return tuple(tuple(_Element(ref, inside) for ref in group) for group in order)


def _order(
    order: tuple[_Elements, ...], done: Group, rest: _Elements, lookup: Lookup, *, optional: bool
) -> Iterator[Group]:
    for group in order:
        yield from _group(group + rest, done, lookup)
    if optional:
        yield from _group(rest, done, lookup)


def _group(elements: _Elements, done: Group, lookup: Lookup) -> Iterator[Group]:
    for index, element in enumerate(elements):
        ref = element.ref
        if any(ref.id == other.id for other in done):
            continue
        try:
            descriptor = lookup(ref)
        except NotFoundError as error:
            if not element.inside:
                raise
            why = f"the order of {element.inside[-1]} names it\n{error.why}"
            raise NotFoundError(error.what, why=why, fix=error.fix) from error
        if descriptor.order:
            inside = (*element.inside, descriptor.id)
            if descriptor.id in element.inside:
                raise InputError(
                    f"the composite buildpack {descriptor.ref} contains itself", why=" -> ".join(inside)
                )
            order = _within(descriptor.order, inside)
            yield from _order(order, done, elements[index + 1 :], lookup, optional=ref.optional)
            return
        done = (*done, Ref(descriptor.id, descriptor.version, ref.optional))
    yield done


_REQUIRES = "requires"


@dataclass(frozen=True, slots=True)
class PassedBuildpack:
    """A buildpack whose bin/detect passed, and the plan that it wrote."""

    ref: Ref
    plan: PlanToml


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A dependency of the resolved plan: its providers, and what was required (P-185)."""

    name: str
    providers: tuple[Ref, ...]
    requires: tuple[Require, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """The `group` and the plan's `entries` of the first combination that holds; both are empty if none does.

    Each of the `reasons` names a buildpack that was dropped, and says why.
    """

    group: tuple[Ref, ...] = ()
    entries: tuple[PlanEntry, ...] = ()
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.group)

    @property
    def unmet(self) -> tuple[str, ...]:
        """The reasons that name a requirement without a provider."""
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
    """Tries each combination of plan alternatives, depth first and from left to right (B-027).

    The first that holds is the result.
    """
    reasons: list[str] = []
    for candidates in _trials(passed):
        group, entries = _trial(candidates, reasons)
        if group:
            return Resolution(group, entries, tuple(reasons))
    return Resolution(reasons=tuple(dict.fromkeys(reasons)))


def _trials(passed: Sequence[PassedBuildpack]) -> Iterator[list[_Candidate]]:
    # As in the reference, an optional buildpack is dropped only with its last alternative. So the others are
    # tried first.
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
    """Connects each requirement with all providers before it.

    What a buildpack provides also counts for what it requires itself.
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
    """Returns a buildpack whose plan does not hold, and why; None if all hold.

    Required buildpacks come before optional ones, and then requirements without a provider (B-029, B-032)
    before provisions without a user (B-028, B-030).
    """
    misfits = [
        *(
            (candidate, f"{_REQUIRES} {name}, which no buildpack before it provides")
            for name, one in dependencies.items()
            for candidate in one.unmet
        ),
        *(
            (candidate, f"provides {name}, which no buildpack after it uses")
            for name, one in dependencies.items()
            for candidate in one.unused
        ),
    ]
    return min(misfits, key=lambda misfit: misfit[0].optional, default=None)
