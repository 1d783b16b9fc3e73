"""The ports of the phases: what they use from outside.

A phase itself opens no file and starts no process by name. The adapters are `build.runner` (over `sandbox`)
and `build.layers` (over `store.build_layers`). The ports use types of base and the noun folders only, so that
an adapter below need not import this folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from packhorse.base.digest import Digest
from packhorse.base.sandbox import Sandbox
from packhorse.base.tree import TreeEdit, TreeView

if TYPE_CHECKING:
    from packhorse.oci.place import Layer
    from packhorse.tar.slices import Pieces

ALLOW = "docs/reference/limits.md says what is allowed and why; --limit NAME=NUMBER allows more"
"""What the user can do if a buildpack met a limit."""


class SandboxPurpose(Enum):
    """What a sandbox is for: DETECTION, whose files are discarded, or BUILD, from restore to export."""

    DETECTION = "detection"
    BUILD = "build"


class Runner(Protocol):
    """Opens the sandboxes in which buildpacks run, and shows their file trees."""

    def open(self, purpose: SandboxPurpose) -> AbstractContextManager[Sandbox]:
        """Opens a sandbox. Leaving the context ends every process in it.

        The sandbox of the build is opened once. It has the layers that the cache restored before that.
        """
        ...

    def builder_files(self) -> AbstractContextManager[TreeView]:
        """The files that exist before any buildpack runs: the builder's, and the platform directory."""
        ...

    def result_tree(self) -> TreeEdit:
        """The tree of the build without the user's volumes, which are not part of the result.

        No command runs after this call. The tree is valid as long as the sandbox of the build.
        """
        ...

    def confirm_source(self) -> bool:
        """Waits until it is known how the source has to be mounted.

        Returns False if detection has mounted it in another way, and so has to run again.
        """
        ...


class LayerCache(Protocol):
    """Keeps layer directories between builds. `path` is a layer's directory inside: `/layers/<id>/<name>`.

    A layer is identified by its diff ID, which depends on the path too.
    """

    def read(self, writers: Sequence[str]) -> bytes:
        """The metadata of the last `commit`, or b"" if there was none. Called before all other methods.

        `writers` are the buildpacks of this build, as `<id>@<version>`. Some need copies of their layers.
        """
        ...

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path` in the sandbox of the build, which is opened later.

        Returns False if the layer is not kept.
        """
        ...

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path` as it is now, with its diff ID, and whether it is the restored one, unchanged.

        A layer that nobody wrote to is neither read nor hashed. Any other is read once, hashed and kept.
        """
        ...

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records the metadata and the layers (by their paths) that the next build may restore."""
        ...


class AppLayerCache(Protocol):
    """Recognizes an application directory that has not changed since its layers were last made."""

    def get(self, terms: str) -> tuple[Digest, ...]:
        """The diff IDs of the slices that were made of it; empty if the application or `terms` differ.

        `terms` describes everything else that the slices depend on.
        """
        ...

    def put(self, terms: str, slices: Sequence[Digest]) -> None:
        """Records the diff IDs of the slices that were made of it."""
        ...

    def open(
        self, tree: TreeView, terms: str | None
    ) -> AbstractContextManager[tuple[TreeView, Pieces | None]]:
        """A view of the application that is faster to read than `tree` and shows the same, or `tree` itself.

        Also the `Pieces` to pack it with, or None. They record how it is packed now, and have those of the
        last tar if that was packed with the same `terms`.
        """
        ...


class Observer(Protocol):
    """Receives progress messages for the user. Must not affect the result."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A phase, for as long as the context is open."""
        ...

    def activity(self, name: str) -> AbstractContextManager[None]:
        """Work that may take long and print nothing, for as long as the context is open."""
        ...

    def say(self, text: str) -> None:
        """One line worth reading."""
        ...

    def detail(self, text: str) -> None:
        """One line that only verbose output shows."""
        ...

    def output(self, source: str, data: bytes) -> None:
        """Output of the buildpack `source`, as it arrives. The bytes may be hostile."""
        ...
