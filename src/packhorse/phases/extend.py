"""The program `extender`, which refuses."""

from __future__ import annotations

from packhorse.errors import HostError
from packhorse.phases.program import Program


def main(program: Program) -> None:
    """Refuses: image extensions are not supported yet."""
    raise HostError(
        "image extensions are not supported yet",
        why="extender applies the Dockerfiles that image extensions generate",
        fix="use a builder without image extensions, or one whose lifecycle supports them",
    )
