"""Which packages the default builder's base root file systems have, and what a dpkg status file says.

Under `platform/builder`, before any arrow: `distro.roots` installs these lists and records what came of
them; `builder default --update` compares two records. Nothing here runs a program or reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from packhorse.base.dataclass import dataclass

RootKind = Literal["build", "run"]

# What a finished app may count on, beside the distribution's essential packages (libc, sh, bash, coreutils,
# grep, sed, tar, perl-base, …). Those stay whole: maintainer scripts and other packages presume them (Debian
# policy 3.8). No apt: an app image is renewed by rebase, not by upgrades inside it. openssl and libssl come
# with ca-certificates.
_RUN = (
    "ca-certificates",
    "libatomic1",
    "libgcc-s1",
    "libstdc++6",
    "netbase",
    "tzdata",
    "usr-is-merged",
    "zlib1g",
)

# A library's headers are here only if the run image has the library (specification: platform.md, base images:
# ABI).
_BUILD = (
    "apt",
    "build-essential",
    "curl",
    "file",
    "git",
    "libssl-dev",
    "openssh-client",
    "pkgconf",
    "python3",
    "python3-pip",
    "python3-venv",
    "unzip",
    "xz-utils",
    "zlib1g-dev",
)


def wanted_packages(kind: RootKind) -> tuple[str, ...]:
    """The packages asked for by name, sorted; the build image has all that the run image has."""
    return _RUN if kind == "run" else tuple(sorted(_RUN + _BUILD))


@dataclass(frozen=True, slots=True, order=True)
class PackageChange:
    """One package that differs between two roots; an empty version means that the package is not there."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.name} {self.old or '(new)'} → {self.new or '(gone)'}"


def changed_packages(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[PackageChange, ...]:
    """What differs from `old` to `new` (name to version), sorted by name; empty when both are the same."""
    return tuple(
        PackageChange(name, old.get(name, ""), new.get(name, ""))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )
