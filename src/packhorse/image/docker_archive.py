"""④ `docker-archive:FILE[:NAME]`: what `docker save` writes and `docker load` reads, as a `Place`.

Layers are plain tar in it, and there is no OCI manifest. The same image always gives the same bytes. Made in
`platform.wiring`; `image.daemon` sends the same form to an engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from packhorse.base import gojson
from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.image.compress import decompress, drain, is_compressed, verify, with_layer_context
from packhorse.image.file import OpenFile, open_draft, resolve_target
from packhorse.image.model import Config
from packhorse.image.place import Receipt
from packhorse.image.reference import DEFAULT_TAG, Reference
from packhorse.image.ustar import Entry, TarIndex, TarWriter
from packhorse.image.view import Image, Layer, layer_ids
from packhorse.image.wire import MANIFEST_LIMIT, JsonNode

_MANIFEST = "manifest.json"


class DockerArchive:
    """The image called `name` in an archive, or the only one there is. Writing replaces the archive whole."""

    def __init__(self, path: Path, name: Reference | None = None) -> None:
        self._path = path
        self._name = name

    def read(self) -> Image:
        """The image under this name; raises NotFoundError, FormatError, StoreError."""
        return saved_image(TarIndex.read(self._path), self._name)

    def names(self) -> tuple[str, ...]:
        """The names of all images that are there, "" for those without one; NotFoundError, FormatError.

        A name that `read` cannot be asked for is none.
        """
        entries = _read_entries(TarIndex.read(self._path))
        named = (dict.fromkeys(map(_readable_name, entry.texts("RepoTags"))) or ("",) for entry in entries)
        return tuple(name for names in named for name in names)

    def write_layer(self, layer: Layer) -> Layer:
        """Keeps a layer that nobody has read yet in a file without a name; others are read at the commit."""
        if layer.diff_id:
            return replace(layer, descriptor=None, blob=None)
        spool = OpenFile.spool(self._path.parent)
        return replace(drain(layer, spool.append), tar=spool.chunks)

    def write_image(self, image: Image) -> Receipt:
        """Writes the archive; the image has no name in it if this place has none.

        InputError for a name with a digest, which an archive has no room for.
        """
        if self._name is not None and self._name.digest is not None:
            raise InputError(
                f"an image cannot be called {self._name.familiar} in an archive",
                why="archives name images by tags",
                fix=f"give it a tag: {self._name.familiar_name}:{self._name.tag or DEFAULT_TAG}",
            )
        path = resolve_target(self._path)
        with open_draft(path.parent) as new:
            write_docker_archive(image, new.file, [self._name] if self._name else [])
            new.publish(path)
        return Receipt(image.id)


def saved_image(tar: TarIndex, name: Reference | None = None) -> Image:
    """The image called `name` in what `docker save` wrote, or the only one; NotFoundError, FormatError."""
    entry = _find_entry(tar, name)
    if not entry.text("Config"):
        raise FormatError(f"{tar.path} is not whole", why=f"{_MANIFEST} names no config for its image")
    config = Config.parse(tar.content(entry.text("Config"), limit=MANIFEST_LIMIT))
    names = entry.texts("Layers")
    if len(names) != len(config.diff_ids):
        why = f"{_MANIFEST} has {len(names)} layers, its config {len(config.diff_ids)}"
        raise FormatError(f"{tar.path} has an image that contradicts itself", why=why)
    pairs = zip(names, config.diff_ids, strict=True)
    return Image(config, tuple(_layer(tar, name, diff_id) for name, diff_id in pairs))


def write_docker_archive(image: Image, file: BinaryIO, names: list[Reference]) -> None:
    """Writes an image, whose layers all have diff IDs, in the form of `docker save`.

    `file` must be one that can seek unless all layers have sizes. Raises FormatError when a layer's
    bytes are not what its diff ID says, and the OSErrors of `file`.
    """
    tar = TarWriter(file)
    for name, chunks, size in archive_members(image, names):
        tar.add(name, chunks, size)
    tar.close()


def archive_members(image: Image, names: list[Reference], *, without: int = 0) -> Iterator[Entry]:
    """The members of an archive of an image, whose layers all have diff IDs, in the form of `docker save`.

    The lowest `without` layers are empty files: dockerd does not look at those that it has (moby,
    image/tarexport/load.go).
    """
    config = f"{image.id.hex}.json"
    tags = [_with_tag(name) for name in names if name.tag or not name.digest]
    diff_ids = layer_ids(image)
    files = [
        f"{diff_id.hex}.tar" if at >= without else f"had-{at}.tar" for at, diff_id in enumerate(diff_ids)
    ]
    manifest = gojson.dumps([{"Config": config, "RepoTags": tags, "Layers": files}])
    yield _MANIFEST, [manifest], len(manifest)
    yield config, [image.config.raw], len(image.config.raw)
    for name in files[:without]:
        yield name, [], 0
    for diff_id, layer in dict(zip(diff_ids[without:], image.layers[without:], strict=True)).items():
        yield f"{diff_id.hex}.tar", verify(layer.tar(), diff_id, layer.size), layer.size


def _read_entries(tar: TarIndex) -> tuple[JsonNode, ...]:
    return JsonNode.parse_list(tar.content(_MANIFEST, limit=MANIFEST_LIMIT), _MANIFEST)


def _find_entry(tar: TarIndex, name: Reference | None) -> JsonNode:
    entries = _read_entries(tar)
    if name is None:
        if len(entries) == 1:
            return entries[0]
    else:
        for entry in entries:
            if _with_tag(name) in map(_familiar_name, entry.texts("RepoTags")):
                return entry
    there = ", ".join(tag for entry in entries for tag in entry.texts("RepoTags")) or "no name"
    what = f"{tar.path} has no image named {name.familiar}" if name else ""
    raise NotFoundError(
        what or f"{tar.path} does not have just one image",
        why=f"it has: {there}",
        fix="give one of the names after the path and a colon",
    )


def _layer(tar: TarIndex, name: str, diff_id: Digest) -> Layer:
    """A layer in an archive; usually plain, and compressed where an engine keeps what it pulled."""
    member = tar.find(name)
    if member is None:
        raise FormatError(
            f"{tar.path} is not whole", why=f"{_MANIFEST} names {name!r:.100}, which is missing"
        )
    stored = partial(tar.file.chunks, member.offset, member.size)
    plain = not is_compressed(tar.file.read_at(member.offset, min(member.size, 4)))

    def bytes_of_tar() -> Iterator[bytes]:
        return with_layer_context(verify(decompress(stored()), diff_id), f"{diff_id} of {tar.path}")

    return Layer(bytes_of_tar, diff_id, member.size if plain else None)


def _readable_name(tag: str) -> str:
    try:
        return "" if Reference.parse(tag).digest else tag
    except InputError:
        return ""


def _with_tag(name: Reference) -> str:
    return name.with_tag(name.tag or DEFAULT_TAG).familiar


def _familiar_name(tag: str) -> str:
    try:
        return Reference.parse(tag).familiar
    except InputError:
        return tag
