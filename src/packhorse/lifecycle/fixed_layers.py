"""③ The layers every image has: SBOM, app slices, launcher, config and process types.

Called by export; what a buildpack's own layers are is decided there. Parents are written, never read from a
file system: `/layers` and `/layers/<id>` 0755 and the app directory 0777, of the CNB user, as they are in a
build with the reference.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from packhorse.base.tree import TreeView
from packhorse.buildpack.launch import Process
from packhorse.image.view import Layer
from packhorse.layers import tar, tree
from packhorse.layers.pieces import Pieces
from packhorse.layers.slices import divide
from packhorse.layers.tree import PackedTree, Position, TarEntry
from packhorse.lifecycle.inputs import Inputs

LAUNCHER = "/cnb/lifecycle/launcher"
PROCESSES = "/cnb/process"


def sbom(inputs: Inputs, view: TreeView) -> Layer:
    """`<layers>/sbom/launch` (P-089)."""
    return _directory(inputs, view, f"{inputs.layers}/sbom/launch")


def config(inputs: Inputs, view: TreeView) -> Layer:
    """`<layers>/config`, with metadata.toml (P-095)."""
    return _directory(inputs, view, f"{inputs.layers}/config")


def launcher(content: bytes) -> Layer:
    """The launcher, of root, whoever built (P-093)."""
    file = TarEntry.file(LAUNCHER, len(content), lambda: io.BytesIO(content))
    return _layer(lambda: [TarEntry.directory("/cnb"), TarEntry.directory("/cnb/lifecycle"), file])


def process_types(processes: Sequence[Process]) -> Layer:
    """A link to the launcher for each process type (P-094)."""
    links = [TarEntry.symlink(f"{PROCESSES}/{process.type}", LAUNCHER) for process in processes]
    return _layer(lambda: [TarEntry.directory("/cnb"), TarEntry.directory(PROCESSES), *links])


def slices(
    inputs: Inputs, view: TreeView, globs: Sequence[Sequence[str]], pieces: Pieces | None = None
) -> list[Layer]:
    """The app, one layer a slice and one for the rest (P-092, B-086), made with the `pieces` there are."""

    def entries(found: Iterable[tree.Found | PackedTree]) -> Iterator[TarEntry | PackedTree]:
        top = TarEntry.directory(inputs.app, mode=0o777, uid=inputs.uid, gid=inputs.gid)
        parents = [top] if any(path == "" for path, _ in found) else []
        return tree.selected_entries(view, inputs.app, found, uid=inputs.uid, gid=inputs.gid, parents=parents)

    divided = divide(view, inputs.app, globs, pieces)
    return [_layer(partial(entries, part.entries), part.position) for part in divided]


def _directory(inputs: Inputs, view: TreeView, path: str) -> Layer:
    parents = [TarEntry.directory(parent, uid=inputs.uid, gid=inputs.gid) for parent in _parents(path)]
    return _layer(
        partial(tree.directory_entries, view, path, uid=inputs.uid, gid=inputs.gid, parents=parents)
    )


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")[1:]
    for count in range(1, len(parts)):
        yield "/" + "/".join(parts[:count])


def _layer(entries: Callable[[], Iterable[TarEntry | PackedTree]], position: Position | None = None) -> Layer:
    return Layer(tar=lambda: tar.stream(entries(), position))
