"""② Whether a buildpack runs on a target (buildpack.md "Targets", B-150, B-151)."""

from __future__ import annotations

from collections.abc import Sequence

from packhorse.base.target import Distro, Target
from packhorse.buildpack.descriptor import BuildpackTarget, Descriptor


def matches(descriptor: Descriptor, target: Target) -> bool:
    """Whether any of the buildpack's targets fits; one that declares none runs on any linux (B-150)."""
    declared = descriptor.targets or (BuildpackTarget(os="linux"),)
    return any(_fits(one, target) for one in declared)


def explain(descriptor: Descriptor, target: Target) -> str:
    """What the buildpack asks for and what there is, for a person."""
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
