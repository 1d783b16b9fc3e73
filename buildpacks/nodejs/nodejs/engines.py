"""Which programs run the application in its image: Node.js, Bun, or both.

On the arrow plan → layers; pure. Called by `nodejs.buildpack`. A build needs Node.js in any case, if only to
fetch packages; Bun is there as its package manager, or because of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass

from . import keeping, start, update
from .project import Project
from .script import BUILTINS
from .sources import Said
from .start import Start

BUN = frozenset(("bun", "bunx"))
"""The commands of Bun."""

# Builtins of a shell that run other programs.
_RUN_OTHERS = {".", "command", "eval", "exec", "source", "trap"}


@dataclass(frozen=True, slots=True)
class Engines:
    """`bun` says why Bun is in the image, and is empty where it is not; `node` whether Node.js is."""

    bun: str
    node: bool

    @classmethod
    def of(
        cls,
        context: sdk.BuildContext,
        project: Project,
        found: Start | None,
        said: Sequence[Said],
        others: Sequence[Start] = (),
    ) -> Self:
        """For an application that `found` and `others` start; `said` are its words about Node.js.

        Node.js stays out only where Bun alone is called, and neither the user, the application nor another
        buildpack asks for it.
        """
        reason = ""
        if found and calls_bun(found):
            reason = found.source if found.programs else f"{found.source}; {project.bun_reason}"
        elif other := next((other for other in others if calls_bun(other)), None):
            reason = other.source
        elif found is None:
            reason = project.bun_reason
        starts = (found, *others) if found else ()
        alone = bool(reason and starts) and all(_is_alone(project, one) for one in starts)
        keeps = update.switch(context.env, keeping.SETTING) is True
        return cls(reason, node=bool(not alone or said or keeps or len(context.plan) > 1))

    def announce(self, log: sdk.Log) -> None:
        """Says what is not as usual."""
        if self.bun:
            log.detail(f"Bun is in the image ({self.bun})")
        if not self.node:
            log.detail("Node.js is not: nothing but Bun is called; with engines.node it would be")


def calls_bun(found: Start) -> bool:
    """Whether the command needs Bun."""
    return found.command[0] in BUN or not BUN.isdisjoint(found.programs)


def _is_alone(project: Project, found: Start) -> bool:
    if found.programs:
        return BUN.union(BUILTINS).difference(_RUN_OTHERS).issuperset(found.programs)
    return start.resolves(project, found.file, found.runner)
