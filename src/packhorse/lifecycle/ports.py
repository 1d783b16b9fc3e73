"""What a phase needs from outside, as ports; phases themselves open no file and start no process by name.

The adapters are `sandbox` behind `platform.runner`, and `store.overlay`. All ports are in terms of base and
noun types, so that no adapter imports this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from packhorse.base.digest import Digest
from packhorse.base.step import Room, Step
from packhorse.base.tree import TreeView
from packhorse.image.view import Layer
from packhorse.layers.pieces import Pieces

ALLOW = "docs/limits.md says what is allowed and why; --limit NAME=NUMBER allows more"
"""What to do about a limit of a Runner's that a step has met."""


class Runner(Protocol):
    """Runs buildpack executables where buildpacks run, and shows the file tree there."""

    def open(self, step: Step) -> AbstractContextManager[Room]:
        """Makes the step's mounts and holds its process; leaving the context ends whatever still runs.

        A step without argv runs nothing and is opened for its tree. Only `scratch` steps may be open beside
        another.
        """
        ...

    def look(self) -> AbstractContextManager[TreeView]:
        """What every step finds that no buildpack has made: the builder's files, the platform directory."""
        ...


class LayerCache(Protocol):
    """Keeps layer directories between builds. `path` is a layer's directory inside: `/layers/<id>/<name>`.

    A layer is known by its diff ID, which covers the path too.
    """

    def read(self, writers: Sequence[str]) -> bytes:
        """The metadata of the last `commit`, or b"" when there was none; asked for before anything else.

        `writers` are who will write to layers (`<id>@<version>`): how they are shown layers may depend on it.
        """
        ...

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path` in every room opened from now on; False when it is not kept
        here.
        """
        ...

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path` as it now is, with its diff ID, and whether it is the restored one, unchanged.

        An untouched layer is neither read nor hashed. Any other is read once: hashed, and kept for later.
        """
        ...

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records that these layers (by path) and this metadata are what the next build may restore."""
        ...


class AppMemory(Protocol):
    """Knows an application directory again that has not changed since it was last divided into slices."""

    def recall(self, terms: str) -> tuple[Digest, ...]:
        """The diff IDs of the slices that it became then; none if it, or `terms`, were others.

        `terms` is all else that they depend on.
        """
        ...

    def note(self, terms: str, slices: Sequence[Digest]) -> None:
        """Says what it has become."""
        ...

    def shown(
        self, tree: TreeView, terms: str | None
    ) -> AbstractContextManager[tuple[TreeView, Pieces | None]]:
        """What is read of it quicker than `tree`, which shows the same, or that itself; and what is told the
        pieces that it is packed to, and has those of last time, unless `terms` are others now, or None.
        """
        ...


class Observer(Protocol):
    """Is told what happens, for people; nothing it does changes a result."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A phase begins; it ends with the context."""
        ...

    def activity(self, name: str) -> AbstractContextManager[None]:
        """Work begins that may take long and print nothing; it ends with the context."""
        ...

    def say(self, text: str) -> None:
        """One line worth reading."""
        ...

    def detail(self, text: str) -> None:
        """One line for those who asked for more."""
        ...

    def output(self, source: str, data: bytes) -> None:
        """What the buildpack `source` wrote, as it comes; hostile bytes."""
        ...
