"""Reads a builder image: its user, buildpacks and run images. Also makes the layers of builders and bases.

The labels are pack's contract, not the specification's. In the layers, entries belong to root, are dated 1980
and have one of two modes, as pack writes them, so that the same content gives the same digest on every
machine. Called by `build.plan` and `builder.default`.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.base.dataclass import dataclass, field
from packhorse.base.digest import Digest
from packhorse.base.tree import NodeKind, TreeView
from packhorse.errors import FormatError
from packhorse.lifecycle.inputs import EPOCH_TEXT, LauncherInfo, RunImageName
from packhorse.oci.mutate import add_layers, edit_config
from packhorse.oci.place import Image, Layer, Place
from packhorse.oci.types import Config, History, JsonNode
from packhorse.report.builder import (
    EXTENSIONS,
    LAUNCHER,
    LAYERS,
    METADATA,
    ORDER,
    ApiVersions,
    read_run_images,
)
from packhorse.spec.buildpack_toml import Order, Ref
from packhorse.tar.writer import TarEntry, directory_entries, stream


@dataclass(frozen=True, slots=True)
class Builder:
    """What a build needs to know of a builder.

    `buildpacks` has the versions of each id, and `extensions` the order of the image extensions.
    """

    name: str
    image: Image = field(compare=False, repr=False)  # a handle to read layers by; `image_id` identifies it
    image_id: Digest
    uid: int
    gid: int
    order: Order
    run_images: tuple[RunImageName, ...]
    buildpacks: Mapping[str, tuple[str, ...]]
    platform_apis: frozenset[str]
    launcher: LauncherInfo
    extensions: Order = ()

    @classmethod
    def read(cls, name: str, image: Image) -> Self:
        """Reads the labels of a builder image; FormatError if it is not a builder."""
        config = image.config
        label = config.labels.get(METADATA)
        if label is None:
            raise FormatError(
                f"{name} is not a builder", why=f"it has no label {METADATA}", fix="name a builder image"
            )
        metadata = JsonNode.parse(label.encode(), f"{METADATA} of {name}")
        lifecycle = metadata.node("lifecycle") or _launcher(config.labels.get(LAUNCHER), name)
        return cls(
            name=name,
            image=image,
            image_id=image.id,
            uid=_parse_user(config.variable("CNB_USER_ID"), name),
            gid=_parse_number(config.variable("CNB_GROUP_ID"), "CNB_GROUP_ID", name),
            order=_order(config.labels, ORDER, name),
            extensions=_order(config.labels, EXTENSIONS, name),
            run_images=tuple(RunImageName(*names) for names in read_run_images(metadata)),
            buildpacks=_buildpacks(config.labels.get(LAYERS) or "{}", name),
            platform_apis=ApiVersions.parse(lifecycle, "platform").all,
            launcher=LauncherInfo(version=lifecycle.text("version")),
        )

    @property
    def env(self) -> Mapping[str, str]:
        """The image's variables."""
        return dict(entry.partition("=")[::2] for entry in self.image.config.env)


_LAST_ID = (1 << 31) - 1
"""The last id of a user or group that bubblewrap, and docker too, can give to a process."""


def _launcher(label: str | None, name: str) -> JsonNode:
    return JsonNode.parse((label or "{}").encode(), f"{LAUNCHER} of {name}")


def _parse_number(text: str | None, variable: str, name: str) -> int:
    if text is None or not re.fullmatch("[0-9]{1,10}", text) or int(text) > _LAST_ID:
        raise FormatError(
            f"{name} is not a usable builder",
            why=f"its variable {variable} is {text!r}, and must be a number from 0 to {_LAST_ID}",
        )
    return int(text)


def _parse_user(text: str | None, name: str) -> int:
    """Reads the builder's user; FormatError for root, which the reference refuses too."""
    uid = _parse_number(text, "CNB_USER_ID", name)
    if uid == 0:
        raise FormatError(
            f"{name} is not a usable builder",
            why="its variable CNB_USER_ID is 0, but buildpacks must not run as root",
        )
    return uid


def _order(labels: Mapping[str, str], key: str, name: str) -> Order:
    groups = []
    for group in JsonNode.parse_list((labels.get(key) or "null").encode(), f"{key} of {name}"):
        refs = (
            Ref(entry.text("id"), entry.text("version"), optional=entry.flag("optional"))
            for entry in group.nodes("group")
        )
        groups.append(tuple(refs))
    return tuple(groups)


def _buildpacks(label: str, name: str) -> dict[str, tuple[str, ...]]:
    node = JsonNode.parse(label.encode(), f"{LAYERS} of {name}")
    return {
        identifier: tuple(versions) if isinstance(versions, dict) else ()
        for identifier, versions in node.fields.items()
    }


_CHUNK = 1 << 20


def file_layer(path: Path) -> Layer:
    """Returns a layer whose uncompressed tar is the file at `path`."""

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    return Layer(tar=chunks)


def entries_layer(entries: Sequence[TarEntry]) -> Layer:
    """Returns a layer with these entries."""
    return Layer(tar=lambda: stream(entries))


def tree_layer(view: TreeView, path: str) -> Layer:
    """Returns a layer with the buildpack in the directory `path` of a tree, and the directories above it.

    The tree must stay open until the layer has been read.
    """

    def chunks() -> Iterator[bytes]:
        entries = parent_entries(path)
        for entry in directory_entries(view, path, uid=0, gid=0):
            mode = _mode_in_builder(entry.name[len(path) + 1 :], entry.kind, entry.mode)
            entries.append(entry if entry.kind is NodeKind.LINK else entry._replace(mode=mode))
        return stream(entries)

    return Layer(tar=chunks)


def file_entry(name: str, content: bytes, *, mode: int = 0o644) -> TarEntry:
    """Returns the entry of a small file that belongs to root."""
    start: Callable[[], BinaryIO] = partial(io.BytesIO, content)
    return TarEntry.file(name, len(content), start, mode=mode)


def parent_entries(path: str) -> list[TarEntry]:
    """Returns the directories above `path`, the highest first."""
    parts = path.split("/")[1:-1]
    return [TarEntry.directory("/" + "/".join(parts[: count + 1])) for count in range(len(parts))]


def write_image(
    place: Place, base: Config, layers: Iterable[tuple[Layer, str]], *, below: Sequence[Layer] = ()
) -> Image:
    """Writes an image to `place`: on the layers `below` of the config `base`, it puts `layers`.

    Each layer comes with the text for `created_by` in its history.
    """
    stored = [(place.write_layer(layer), created_by) for layer, created_by in layers]
    history = []
    for layer, created_by in stored:
        if layer.diff_id is None:
            raise FormatError("a layer came back without its digest", why="this is a defect of packhorse")
        history.append((layer.diff_id, History(created_by=created_by)))
    config = edit_config(add_layers(base, history, created=EPOCH_TEXT, keep_history=True), created=EPOCH_TEXT)
    image = Image(config, (*(place.write_layer(layer) for layer in below), *(layer for layer, _ in stored)))
    place.write_image(image)
    return image


EXECUTABLES = ("bin/detect", "bin/build")
"""The programs of a buildpack, which are executable in a builder even if their author's files are not."""


def list_modes(top: Path) -> Iterator[tuple[Path, int, int]]:
    """Yields each entry of a buildpack's directory but links: its path, its mode, and its mode in a builder.

    The modes in a builder are pack's. A directory is opened after the caller has got it, so that the caller
    can change its mode first.
    """
    for here, directories, files in os.walk(top):
        for name in (".", *directories, *files):
            path = Path(here, name)
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode):
                kind = NodeKind.DIRECTORY if stat.S_ISDIR(mode) else NodeKind.FILE
                yield path, stat.S_IMODE(mode), _mode_in_builder(str(path.relative_to(top)), kind, mode)


def _mode_in_builder(name: str, kind: NodeKind, mode: int) -> int:
    """The mode in a builder of a buildpack's file or directory; `name` is its path below the buildpack."""
    is_executable = kind is NodeKind.DIRECTORY or name in EXECUTABLES or mode & 0o111
    return 0o755 if is_executable else 0o644
