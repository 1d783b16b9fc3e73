"""What the managers that do not come with Node.js have in common. Called by them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from packhorse import sdk
from packhorse.sdk.dataclass import dataclass

from ..project import Project
from ..runtime import Runtime
from .npm import npm_rebuild
from .tool import Tool


@dataclass(frozen=True, slots=True)
class Fetched:
    """The manager of `tool` for `project`, the root of a workspace if there is one.

    `lock` is the name of its lock file, empty without one.
    """

    context: sdk.BuildContext
    project: Project
    runtime: Runtime
    tool: Tool
    lock: str

    @property
    def made(self) -> tuple[str, ...]:
        """Nothing but node_modules."""
        return ()

    @property
    def version(self) -> str:
        """The version that runs."""
        return self.tool.version

    @property
    def locked(self) -> bool:
        """Whether there is a lock of this manager's."""
        return bool(self.lock)

    @property
    def env(self) -> Mapping[str, str]:
        """Node.js and this manager on PATH."""
        return self.tool.env(self.runtime)

    def rebuild(self, directory: Path) -> None:
        """`npm rebuild`, for who has nothing like it."""
        npm_rebuild(self.context, directory, self.env)
