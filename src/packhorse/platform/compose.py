"""Layers and configs of images that are put together, not built by buildpacks: builders and base images.

Called by `platform.default_builder`. Entries belong to root, are dated 1980, and have one of two modes, as
pack writes them, so that the same content gives the same digest on every machine.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from packhorse.base.rooted import RootedTree
from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import FormatError
from packhorse.image.edit import add_layers, edit_config
from packhorse.image.model import Config, History
from packhorse.image.place import Place
from packhorse.image.view import Image, Layer
from packhorse.layers import tar, tree
from packhorse.layers.tree import TarEntry

CREATED = "1980-01-01T00:00:01Z"

_CHUNK = 1 << 20
_EXECUTABLES = ("/bin/build", "/bin/detect", "/bin/generate")


def file_layer(path: Path) -> Layer:
    """A layer whose uncompressed tar is the file at `path`."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    return Layer(tar=chunks)


def entries_layer(entries: Sequence[TarEntry]) -> Layer:
    """A layer of entries that are at hand."""
    return Layer(tar=lambda: tar.stream(entries))


def directory_layer(source: Path, target: str) -> Layer:
    """The directory `source` of this machine as `target` in an image, with the directories above it."""

    def chunks() -> Iterator[bytes]:
        with RootedTree.open_local(source) as view:
            yield from _directory(view, "/", target)

    return Layer(tar=chunks)


def tree_layer(view: TreeView, path: str) -> Layer:
    """The directory `path` of a tree as the same in an image; as long as the tree can be read."""
    return Layer(tar=lambda: _directory(view, path, path))


def _directory(view: TreeView, path: str, target: str) -> Iterator[bytes]:
    found = tree.directory_entries(view, path, uid=0, gid=0)
    return tar.stream((*parent_entries(target), *(_move(entry, path, target) for entry in found)))


def file_entry(name: str, content: bytes, *, mode: int = 0o644) -> TarEntry:
    """A small file of root's."""
    start: Callable[[], BinaryIO] = partial(io.BytesIO, content)
    return TarEntry.file(name, len(content), start, mode=mode)


def parent_entries(path: str) -> list[TarEntry]:
    """The directories above `path`, highest first."""
    parts = path.split("/")[1:-1]
    return [TarEntry.directory("/" + "/".join(parts[: count + 1])) for count in range(len(parts))]


def write_image(
    place: Place, base: Config, layers: Iterable[tuple[Layer, str]], *, below: Sequence[Layer] = ()
) -> Image:
    """Writes an image to `place`: the layers `below` are those of `base`, `layers` come with what made
    them.
    """
    stored = [(place.write_layer(layer), created_by) for layer, created_by in layers]
    history = []
    for layer, created_by in stored:
        if layer.diff_id is None:
            raise FormatError("a layer came back without its digest", why="this is a defect of packhorse")
        history.append((layer.diff_id, History(created_by=created_by)))
    config = edit_config(add_layers(base, history, created=CREATED, keep_history=True), created=CREATED)
    image = Image(config, (*(place.write_layer(layer) for layer in below), *(layer for layer, _ in stored)))
    place.write_image(image)
    return image


def _move(entry: TarEntry, path: str, target: str) -> TarEntry:
    name = target + (entry.name if path == "/" else entry.name.removeprefix(path)).rstrip("/")
    if entry.kind is NodeKind.LINK:
        return entry._replace(name=name)
    executable = entry.kind is NodeKind.DIRECTORY or entry.mode & 0o111 or name.endswith(_EXECUTABLES)
    return entry._replace(name=name, mode=0o755 if executable else 0o644)
