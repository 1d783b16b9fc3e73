"""What a phase needs from outside, as ports; phases themselves open no file and start no process by name.

The adapters are `sandbox` behind `build.runner`, and `store.build_layers`. All ports are in terms of base and
noun types, so that no adapter imports this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Protocol

from packhorse.base.digest import Digest
from packhorse.base.sandbox import Sandbox
from packhorse.base.tree import TreeEdit, TreeView
from packhorse.oci.place import Layer
from packhorse.tar.slices import Pieces

ALLOW = "docs/reference/limits.md says what is allowed and why; --limit NAME=NUMBER allows more"
"""What to do about a limit of a Runner's that a step has met."""


class SandboxPurpose(Enum):
    """What a sandbox is for: asking buildpacks, whose writes nobody sees afterwards; restore to export."""

    DETECTION = "detection"
    BUILD = "build"


class Runner(Protocol):
    """Runs buildpack executables where buildpacks run, and shows the file tree there."""

    def open(self, purpose: SandboxPurpose) -> AbstractContextManager[Sandbox]:
        """Makes a sandbox; leaving the context ends whatever still runs there.

        That of the build has the layers that the cache was asked to restore before. It is opened once.
        """
        ...

    def builder_files(self) -> AbstractContextManager[TreeView]:
        """What every command finds that no buildpack has made: builder files, platform directory."""
        ...

    def result_tree(self) -> TreeEdit:
        """The tree of the build, without what is no part of its result (the user's volumes).

        No command runs after this; the tree lasts as long as the sandbox of the build.
        """
        ...

    def confirm_source(self) -> bool:
        """Waits until it is known how buildpacks have to be shown the source.

        False if it has turned out that they have to be asked again, since they were shown it another way.
        """
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
        """Makes the kept layer appear at `path` in the sandbox of the build, which is opened after that.

        False when it is not kept here.
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


class AppLayerCache(Protocol):
    """Knows an application directory again that has not changed since it was last divided into slices."""

    def get(self, terms: str) -> tuple[Digest, ...]:
        """The diff IDs of the slices that it became then; none if it, or `terms`, were others.

        `terms` is all else that they depend on.
        """
        ...

    def put(self, terms: str, slices: Sequence[Digest]) -> None:
        """Says what it has become."""
        ...

    def open(
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
