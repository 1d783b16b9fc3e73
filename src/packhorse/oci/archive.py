"""Reads and writes images in tar archives: `docker-archive:FILE[:NAME]` and `oci-archive:FILE[:REF]`.

A docker archive is what `docker save` writes and `docker load` reads: it has plain layers, no OCI manifest;
`oci.engine` sends the same form to an engine. An OCI archive is a tar of an OCI layout (`oci.layout`). The
same image always gives the same bytes. Nothing is extracted by name: a member is a range of the archive's
bytes. Layer tars, with modes and links, are written by `tar.writer`.
"""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Self

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.errors import FormatError, InputError, NotFoundError
from packhorse.oci.compress import decompress, drain, is_compressed, tee, verify, with_layer_context
from packhorse.oci.files import OpenFile, open_draft, resolve_target
from packhorse.oci.layout import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    OCI_ONLY,
    LayoutFiles,
    NamedLayout,
    blob_name,
    index_entry,
)
from packhorse.oci.place import Image, Layer, Receipt, layer_ids, make_manifest
from packhorse.oci.reference import DEFAULT_TAG, Reference
from packhorse.oci.types import MANIFEST_LIMIT, Config, Descriptor, Index, JsonNode

MTIME = 315532801
"""1980-01-01T00:00:01Z, the time of every file that packhorse writes into images."""

_BLOCK = 512
_MEMBERS = 100_000
_EXTENSION = 1 << 20  # the most bytes of a PAX header or a GNU long name
_NAME = 4096  # the most bytes of a name, as in Linux
_RECORDS = (b"path", b"linkpath", b"size")
_SPARSE = b"GNU.sparse."
_HOPS = 8
_FILE, _HARD_LINK, _SYMLINK = b"0\0\x37", b"1", b"2"
_EMPTY_KINDS = b"123456"  # links, devices, directories and FIFOs: no bytes follow, whatever the size says


Entry = tuple[str, Iterable[bytes], int | None]
"""A file to archive: its name, its bytes, and their number, None if it is unknown."""

_MANIFEST = "manifest.json"


class TarWriter:
    """Writes regular files and directories into a new tar. They belong to root and all users may read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def directory(self, name: str) -> None:
        """Adds a directory, whose name is given without a slash at its end."""
        self._file.write(_header(f"{name}/", 0, kind=b"5", mode=0o755))

    def add(self, name: str, chunks: Iterable[bytes], size: int | None = None) -> None:
        """Adds a file. Without `size` it rewrites the header after the bytes.

        Raises FormatError if there are more or fewer than `size` bytes.
        """
        start = self._file.tell()
        self._file.write(_header(name, size or 0))
        length = 0
        for chunk in chunks:
            length += len(chunk)
            self._file.write(chunk)
        self._file.write(bytes(-length % _BLOCK))
        if size is None:
            end = self._file.tell()
            self._file.seek(start)
            self._file.write(_header(name, length))
            self._file.seek(end)
        else:
            _require_size(name, length, size)

    def close(self) -> None:
        """Writes the two empty blocks at the end; the file stays open."""
        self._file.write(bytes(2 * _BLOCK))


def stream_tar(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Yields the tar that `TarWriter` would write of files whose sizes are known.

    Raises FormatError if a file has no size or another number of bytes.
    """
    for name, chunks, size in entries:
        if size is None:
            raise FormatError(f"{name} cannot be archived", why="its size is not known")
        yield _header(name, size)
        length = 0
        for chunk in chunks:
            length += len(chunk)
            yield chunk
        _require_size(name, length, size)
        yield bytes(-length % _BLOCK)
    yield bytes(2 * _BLOCK)


def tar_length(entries: Iterable[Entry]) -> int:
    """Returns the number of bytes that `stream_tar` yields."""
    sizes = [size or 0 for _, _, size in entries]
    return sum(_BLOCK + size + -size % _BLOCK for size in sizes) + 2 * _BLOCK


def _require_size(name: str, length: int, size: int) -> None:
    if length != size:
        raise FormatError(f"{name} cannot be archived", why=f"{length} bytes came instead of {size}")


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tar: a range of bytes, or the target of a link."""

    offset: int
    size: int
    link: str = ""


class TarIndex:
    """The members of a tar by name. The last of several members with one name counts."""

    def __init__(self, path: Path, file: OpenFile, members: dict[str, Member]) -> None:
        self.path = path
        self.file = file
        self._members = members

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads all headers; raises NotFoundError, StoreError and FormatError."""
        return cls.of(path, OpenFile.open(path))

    @classmethod
    def of(cls, path: Path, file: OpenFile) -> Self:
        """Reads all headers of an open file. Errors call it `path`. Raises StoreError and FormatError."""
        return cls(path, file, _read_members(file, path))

    def find(self, name: str) -> Member | None:
        """Finds the file `name`, through links inside the archive; None if there is none."""
        name = posixpath.normpath(name)
        for _ in range(_HOPS):
            member = self._members.get(name)
            if member is None or not member.link:
                return member
            name = member.link
        return None

    def content(self, name: str, *, limit: int) -> bytes:
        """Reads a small file; raises NotFoundError, and FormatError if it has more than `limit` bytes."""
        member = self.find(name)
        if member is None:
            raise NotFoundError(
                f"{self.path} has no {name}", why="it is not an image archive, or it is incomplete"
            )
        if member.size > limit:
            raise FormatError(
                f"{name} in {self.path} is too large", why=f"{member.size} bytes of at most {limit}"
            )
        return self.file.read_at(member.offset, member.size)


def _read_members(file: OpenFile, path: Path) -> dict[str, Member]:
    found: dict[str, Member] = {}
    extended: dict[str, str] = {}
    offset, end = 0, file.size
    headers = 0
    while offset < end:
        block = file.read_at(offset, _BLOCK)
        if not block.strip(b"\0"):
            break
        headers += 1
        if headers > _MEMBERS:
            raise _tar_error(path, f"it has more than {_MEMBERS} entries")
        if len(block) < _BLOCK or _checksum(block) != _parse_number(block[148:156]):
            compressed = "; it may be compressed: decompress it first" if headers == 1 else ""
            raise _tar_error(path, f"there is no tar header at byte {offset}{compressed}")
        kind = block[156:157]
        offset += _BLOCK
        size = 0 if kind in _EMPTY_KINDS else _read_size(extended.get("size"), block, path)
        if offset + size > end:
            raise _tar_error(path, f"it ends within the file at byte {offset}")
        if kind in b"xLK":
            if size > _EXTENSION:
                raise _tar_error(path, f"the extended header at byte {offset} has {size} bytes")
            extended |= _read_extension(kind, file.read_at(offset, size), path)
        elif kind != b"g":
            _add_member(found, block, extended, Member(offset, size), path)
            extended = {}
        offset += size + -size % _BLOCK
    return found


def _add_member(
    found: dict[str, Member], block: bytes, extended: dict[str, str], member: Member, path: Path
) -> None:
    kind = block[156:157]
    name, target = (
        extended.get("path") or _read_name(block),
        extended.get("linkpath") or _text(block[157:257]),
    )
    if len(name) > _NAME or len(target) > _NAME:
        raise _tar_error(path, f"the name at byte {member.offset - _BLOCK} is longer than {_NAME} bytes")
    name = posixpath.normpath(name).lstrip("/")
    if any(key.startswith(_SPARSE.decode()) for key in extended) or kind not in _FILE + _EMPTY_KINDS:
        raise _tar_error(path, f"{name!r:.100} is of a kind that images do not have in archives")
    if kind in _FILE:
        found[name] = member
    elif kind in _SYMLINK + _HARD_LINK:
        if kind in _SYMLINK:
            target = posixpath.join(posixpath.dirname(name), target)
        found[name] = Member(0, 0, posixpath.normpath(target).lstrip("/"))


def _read_extension(kind: bytes, data: bytes, path: Path) -> dict[str, str]:
    """Reads a GNU long name or a PAX header (POSIX.1-2001 pax, "Extended Header") for the next entry."""
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": _text(data)}
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        digits = data[at : max(at, space)]
        end = at + int(digits) if digits.isdigit() else 0
        if not at < space < end <= len(data):
            raise _tar_error(path, "an extended header is not made of records")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key in _RECORDS or key.startswith(_SPARSE):
            records[key.decode(errors="replace")] = value.decode(errors="surrogateescape")
        at = end
    return records


def _read_size(extended: str | None, block: bytes, path: Path) -> int:
    size = _parse_number(block[124:136])
    if extended is not None and extended.isascii() and extended.isdigit() and len(extended) < 20:
        size = int(extended)
    if size < 0:
        raise _tar_error(path, "a size is not a number")
    return size


def _parse_number(field: bytes) -> int:
    """Parses an octal field or GNU's base 256; -1 for anything else."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        return -1


def _read_name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return posixpath.join(prefix, _text(block[:100]))


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode(errors="surrogateescape")


def _checksum(block: bytes) -> int:
    return sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")


def _header(name: str, size: int, *, kind: bytes = b"0", mode: int = 0o644) -> bytes:
    """Makes a USTAR header. Sizes from 8 GiB on are in GNU's base 256, which Go, docker and tar read."""
    length = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11)
    block = b"".join(
        (
            name.encode().ljust(100, b"\0"),
            b"%07o\0" % mode,
            b"%07o\0" % 0,
            b"%07o\0" % 0,
            length,
            b"%011o\0" % MTIME,
            b" " * 8,
            kind,
            bytes(100),
            b"ustar\x0000",
        )
    ).ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % _checksum(block) + block[156:]


def _tar_error(path: Path, why: str) -> FormatError:
    return FormatError(f"{path} cannot be read as a tar", why=why)


class DockerArchive:
    """The image `name` in an archive, by default its only one. Writing replaces the whole archive."""

    def __init__(self, path: Path, name: Reference | None = None) -> None:
        self._path = path
        self._name = name

    def read(self) -> Image:
        """The image under this name; raises NotFoundError, FormatError, StoreError."""
        return saved_image(TarIndex.read(self._path), self._name)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all images, "" for one without a name; NotFoundError, FormatError.

        It omits names that `read` does not accept.
        """
        entries = _read_entries(TarIndex.read(self._path))
        named = (dict.fromkeys(map(_readable_name, entry.texts("RepoTags"))) or ("",) for entry in entries)
        return tuple(name for names in named for name in names)

    def write_layer(self, layer: Layer) -> Layer:
        """Keeps a layer without a diff ID in an unnamed file. `write_image` reads the others."""
        if layer.diff_id:
            return replace(layer, descriptor=None, blob=None)
        return spool_layer(layer, self._path.parent)

    def write_image(self, image: Image) -> Receipt:
        """Writes the archive; the image gets no name if this place has none.

        Raises InputError for a name with a digest, which an archive cannot store.
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


def spool_layer(layer: Layer, directory: Path) -> Layer:
    """Writes a layer's tar to an unnamed file in `directory`, to learn its diff ID and size in bytes.

    The returned layer is read from the file. Raises StoreError, and what reading the layer raises.
    """
    spool = OpenFile.spool(directory)
    return replace(drain(layer, spool.append), tar=spool.chunks)


def saved_image(tar: TarIndex, name: Reference | None = None) -> Image:
    """Reads the image `name`, or the only one, from a docker archive; NotFoundError, FormatError."""
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
    """Writes an image, whose layers must have diff IDs, in the form of `docker save`.

    `file` must be seekable unless all layers have sizes. Raises FormatError if a layer's bytes do not match
    its diff ID, and the OSErrors of `file`.
    """
    tar = TarWriter(file)
    for name, chunks, size in archive_members(image, names):
        tar.add(name, chunks, size)
    tar.close()


def archive_members(image: Image, names: list[Reference], *, without: int = 0) -> Iterator[Entry]:
    """Yields the files of a docker archive of an image, whose layers must have diff IDs.

    The lowest `without` layers are empty files, because dockerd does not read layers that it has (moby,
    image/tarexport/load.go).
    """
    config = f"{image.id.hex}.json"
    tags = [_with_tag(name) for name in names if name.tag or not name.digest]
    diff_ids = layer_ids(image)
    files = [
        f"{diff_id.hex}.tar" if at >= without else f"had-{at}.tar" for at, diff_id in enumerate(diff_ids)
    ]
    manifest = json_bytes([{"Config": config, "RepoTags": tags, "Layers": files}])
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
    """Reads a layer, which is usually plain but compressed if the engine keeps pulled layers compressed."""
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


class OciArchive(NamedLayout):
    """An image in an archive of a layout. Writing replaces the whole archive."""

    def files(self) -> LayoutFiles:
        """Returns the files of the layout in the archive; raises NotFoundError, FormatError."""
        return archive_files(self.path)

    def write_layer(self, layer: Layer) -> Layer:
        """Compresses a layer without a stored form into an unnamed file. `write_image` reads the others."""
        if layer.descriptor and layer.blob:
            return layer
        spool = OpenFile.spool(self.path.parent)
        return replace(tee(layer, spool.append, self.compression), blob=spool.chunks)

    def write_image(self, image: Image) -> Receipt:
        """Writes the archive: the index, then every blob once, with the layers in their order."""
        manifest = make_manifest(image, accepts=OCI_ONLY)
        index = Index.of([index_entry(image, manifest, self.ref)])
        blobs = [(manifest.descriptor, iter([manifest.raw])), (manifest.config, iter([image.config.raw]))]
        blobs += [
            (descriptor, _stored_chunks(layer))
            for layer, descriptor in zip(image.layers, manifest.layers, strict=True)
        ]
        written: set[Descriptor] = set()
        path = resolve_target(self.path)
        with open_draft(path.parent) as new:
            tar = TarWriter(new.file)
            tar.add(LAYOUT_FILE, [LAYOUT_VERSION], len(LAYOUT_VERSION))
            tar.add(INDEX_FILE, [index.raw], len(index.raw))
            tar.directory("blobs")
            tar.directory("blobs/sha256")
            for descriptor, chunks in blobs:
                if descriptor not in written:
                    written.add(descriptor)
                    checked = verify(chunks, descriptor.digest, descriptor.size)
                    tar.add(blob_name(descriptor.digest), checked, descriptor.size)
            tar.close()
            new.publish(path)
        return Receipt(image.id, manifest.digest, len(manifest.raw))


def archive_files(path: Path) -> LayoutFiles:
    """Returns the files of the layout in an archive; raises NotFoundError, FormatError."""
    return _ArchiveFiles(read_archive(path))


def read_archive(path: Path) -> TarIndex:
    """Reads the headers of a tar, which may be compressed: then its bytes are in an unnamed file.

    Raises as `TarIndex.read`, and FormatError for broken compression.
    """
    file = OpenFile.open(path)
    if is_compressed(file.read_at(0, 4)):
        spool = OpenFile.spool(Path(tempfile.gettempdir()))
        for chunk in decompress(file.chunks()):
            spool.append(chunk)
        file = spool
    return TarIndex.of(path, file)


class _ArchiveFiles:
    """The files of a layout in a tar."""

    def __init__(self, tar: TarIndex) -> None:
        self._tar = tar

    def content(self, name: str, *, limit: int) -> bytes:
        return self._tar.content(name, limit=limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        member = self._tar.find(name)
        if member is None:
            raise NotFoundError(
                f"{self._tar.path} has no {name}", why="it is not an OCI archive, or it is incomplete"
            )
        yield from self._tar.file.chunks(member.offset, member.size)


def _stored_chunks(layer: Layer) -> Iterator[bytes]:
    if layer.blob is None:
        raise FormatError(f"the layer {layer.diff_id} cannot be archived", why="nothing has its stored form")
    return layer.blob()
