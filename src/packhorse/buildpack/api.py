"""② What each Buildpack API version brought, by name.

From buildpack.md; docs/spec-matrix.md lists its clauses.

A phase asks `api.has(EXEC_ENV)` and never compares numbers.
"""

from __future__ import annotations

import re
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import BuildpackApiError

_FORM = re.compile(r"v?([0-9]{1,9})(?:\.([0-9]{1,9}))?")


@dataclass(frozen=True, slots=True, order=True)
class BuildpackApi:
    """A Buildpack API version, `<major>.<minor>` (B-001, B-002)."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str, *, owner: str) -> Self:
        """Reads a version that `owner` (a buildpack's id) declares; raises BuildpackApiError if unsupported
        (B-004).
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise BuildpackApiError(
                f"buildpack {owner} declares the Buildpack API {text!r}",
                why="that is not a version of the form <major>.<minor>",
            )
        api = cls(int(match[1]), int(match[2] or 0))
        if api not in SUPPORTED:
            raise BuildpackApiError(
                f"buildpack {owner} needs Buildpack API {api}",
                why=f"supported are {', '.join(map(str, SUPPORTED))}",
                fix="use another version of the buildpack, or a builder that has one",
            )
        return api

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    def has(self, feature: Feature) -> bool:
        """Whether a buildpack of this API has `feature`."""
        return (self.major, self.minor) >= feature.since


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that an API has since one version."""

    name: str
    since: tuple[int, int]


TARGETS = Feature("CNB_TARGET_* in the environment, [[targets]] in the descriptor", (0, 10))
EXEC_ENV = Feature("CNB_EXEC_ENV, exec-env on buildpacks and processes", (0, 12))

SUPPORTED = tuple(BuildpackApi(0, minor) for minor in (10, 11, 12))
