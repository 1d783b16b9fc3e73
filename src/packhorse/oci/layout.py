"""Reads and writes images in an OCI image layout directory (`oci:DIR[:REF]`), as skopeo and umoci do.

`Layout` is the `Place` of one image. `LayoutName` is a name with everything under it, to copy from and to
(`oci.place`), and with what is attached to it (`oci.attached`). Reading needs only files by name
(`LayoutFiles`), so `oci.archive` reads layouts inside archives with the same functions. `host.wiring` makes
all of these. The store is not a plain layout; it is `packhorse.store`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.attached import Referrer, index_of_referrers, parse_referrers, referrers_tag, subject_of
from packhorse.oci.compress import Compression, stored_layer, tee, verify
from packhorse.oci.files import HIDDEN, OpenFile, map_errors, open_draft
from packhorse.oci.place import Chunks, Image, Layer, Receipt, make_manifest
from packhorse.oci.reference import is_attachment_tag
from packhorse.oci.types import (
    MANIFEST_LIMIT,
    OCI_LAYERS,
    REF_NAME,
    Config,
    Descriptor,
    Document,
    Index,
    JsonNode,
    Manifest,
    MediaType,
    find_manifest,
    parse_document,
)

LAYOUT_FILE, INDEX_FILE = "oci-layout", "index.json"
LAYOUT_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
OCI_ONLY = (MediaType.OCI_MANIFEST,)
"""What is written into layouts; skopeo and umoci do not find an image under docker's media types there."""


class LayoutFiles(Protocol):
    """Files by their names in a layout: a directory, or an archive."""

    def content(self, name: str, *, limit: int) -> bytes:
        """A small file whole; raises NotFoundError, and FormatError when it has more than `limit` bytes."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's bytes in chunks; raises NotFoundError."""
        ...


def blob_name(digest: Digest) -> str:
    """The file of a blob (image-spec, image-layout.md "Blobs")."""
    return f"blobs/sha256/{digest.hex}"


def read_image(files: LayoutFiles, ref: str, *, target: Target | None, where: str) -> Image:
    """The image named `ref` in a layout, or the only one there is if `ref` is "".

    `target` decides where a name stands for several images, the host's by default. `where` is the
    layout's name in errors. Raises NotFoundError, and FormatError for a layout that contradicts itself.
    """
    index, read = read_index(files, where), partial(read_document, files, where=where)
    entries = find_entries(index, ref, where)
    root = read(entries[0]) if len(entries) == 1 else replace(index, manifests=tuple(entries))
    name = f"{where}:{ref}" if ref else where
    manifest, indexes = find_manifest(root, target or Target.host(), read, where=name)
    among = indexes[0].targets if indexes else None
    # Where the name has several entries, the first index is the layout's own, of which no name is.
    known_by = tuple(each.digest for each in indexes[len(entries) > 1 :])
    return replace(_read_image(files, manifest, name), all_targets=among, known_digests=known_by)


def read_entry(files: LayoutFiles, entry: Descriptor, where: str) -> Image:
    """The image whose manifest `entry` describes; raises NotFoundError, FormatError."""
    return _read_image(files, Manifest.parse(read_blob(files, entry, where), entry.media_type), where)


def read_document(files: LayoutFiles, entry: Descriptor, where: str) -> Document:
    """The manifest or index that `entry` describes; raises NotFoundError, FormatError."""
    return parse_document(read_blob(files, entry, where), entry.media_type)


def _read_image(files: LayoutFiles, manifest: Manifest, where: str) -> Image:
    config = Config.parse(read_blob(files, manifest.config, where))
    if len(config.diff_ids) != len(manifest.layers):
        raise FormatError(
            f"{where} has an image that contradicts itself",
            why=f"its manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)}",
        )
    layers = []
    for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
        if descriptor.media_type not in OCI_LAYERS:
            raise FormatError(
                f"{where} has a layer that is not a file system", why=f"it is {descriptor.media_type}"
            )
        blob = partial(files.chunks, blob_name(descriptor.digest))
        layers.append(stored_layer(blob, descriptor, diff_id, where=where))
    return Image(config, tuple(layers), manifest, tuple(sorted(manifest.annotations.items())))


def read_blob(files: LayoutFiles, descriptor: Descriptor, where: str = "") -> bytes:
    """A small blob whole, held against its descriptor."""
    content = files.content(blob_name(descriptor.digest), limit=min(descriptor.size, MANIFEST_LIMIT))
    return b"".join(verify([content], descriptor.digest, descriptor.size, where=where))


def read_index(files: LayoutFiles, where: str) -> Index:
    """The index of a layout; raises NotFoundError when `files` are none, FormatError when it is broken."""
    layout = JsonNode.parse(files.content(LAYOUT_FILE, limit=MANIFEST_LIMIT), f"{where}: {LAYOUT_FILE}")
    version = layout.text("imageLayoutVersion")
    if not version.startswith("1."):
        layout.fail("imageLayoutVersion", f"it is {version!r:.40}; only version 1 can be read")
    return Index.parse(files.content(INDEX_FILE, limit=MANIFEST_LIMIT))


def index_entry(image: Image, manifest: Manifest, ref: str) -> Descriptor:
    """What a layout's index says of an image: its manifest, its target, and its name if it has one.

    Raises InputError for a name with the digest of another image.
    """
    name, _, digest = ref.rpartition("@")
    if digest.startswith("sha256:") and digest != str(manifest.digest):
        raise InputError(
            f"the image cannot be called {ref} in a layout",
            why=f"it has another digest, {manifest.digest}",
            fix=f"leave the digest out: {name or 'give it a name'}",
        )
    annotations = {REF_NAME: ref} if ref else {}
    return replace(manifest.descriptor, target=image.config.target, annotations=annotations)


@dataclass(eq=False)
class NamedLayout(ABC):
    """An image in a layout, which is at `path` as a directory or in an archive: the one named `ref`, or
    without a name the only one, or the one that has none.

    `target` decides where a name stands for several, the host's by default. Layers without a stored form get
    one by `compression`.
    """

    path: Path
    ref: str = ""
    _: KW_ONLY
    target: Target | None = None
    compression: Compression = Compression.GZIP

    def names(self) -> tuple[str, ...]:
        """The names of all images that are there, "" for those without one; NotFoundError, FormatError."""
        entries = read_index(self.files(), str(self.path)).manifests
        found = (entry.annotations.get(REF_NAME, "") for entry in entries)
        return tuple(dict.fromkeys(name for name in found if not is_attachment_tag(name)))

    def read(self) -> Image:
        """The image under this name; raises NotFoundError, FormatError, StoreError."""
        return read_image(self.files(), self.ref, target=self.target, where=str(self.path))

    @abstractmethod
    def files(self) -> LayoutFiles:
        """The files of the layout; raises NotFoundError, FormatError."""


@dataclass(eq=False)
class Layout(NamedLayout):
    """An image in a layout directory.

    Blobs that are there and have their digest are not written again, and blobs are never removed: other names
    may need them. Layers `without` whose blobs it is written are in its manifest alone.
    """

    without: frozenset[Digest] = frozenset()

    def __post_init__(self) -> None:
        self._ready = False
        self._known: dict[Digest, Descriptor] | None = None
        self._lock = threading.Lock()

    def files(self) -> LayoutFiles:
        """The files below the directory."""
        return Directory(self.path)

    def write_layer(self, layer: Layer) -> Layer:
        """Brings one layer, compressed or as the blob it is; InputError if the directory is no layout."""
        self._ensure_layout()
        if layer.diff_id in self.without:
            return layer if layer.descriptor else tee(layer, lambda _: None, self.compression)
        if layer.descriptor and layer.blob:
            self._write_blob(layer.descriptor, layer.blob)
            return replace(layer, blob=self._blob_reader(layer.descriptor))
        with self._lock:
            if self._known is None:  # only who needs it pays for looking at every image
                self._known = _stored_layers(Directory(self.path))
        stored = self._known.get(layer.diff_id) if layer.diff_id else None
        if layer.diff_id and stored and self._has_wanted_form(stored) and self._has_blob(stored):
            found = stored_layer(self._blob_reader(stored), stored, layer.diff_id, where=str(self.path))
            if _unpacks_to_diff_id(found):
                return replace(found, size=layer.size)
        return self._compress(layer)

    def write_image(self, image: Image) -> Receipt:
        """Writes config and manifest and puts the name into the index, where it replaces what it named."""
        self._ensure_layout()
        manifest = make_manifest(image, accepts=OCI_ONLY)
        self._write_blob(manifest.config, lambda: iter([image.config.raw]))
        self._write_blob(manifest.descriptor, lambda: iter([manifest.raw]))
        with self.lock():
            index = self._index_with({self.ref: index_entry(image, manifest, self.ref)})
            self._write(self.path / INDEX_FILE, index)
        return Receipt(image.id, manifest.digest, len(manifest.raw))

    def add_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes any blob unless it is there; as `write_layer`."""
        self._ensure_layout()
        self._write_blob(blob, chunks)

    def add_entry(self, entry: Descriptor, ref: str | None = None) -> None:
        """Puts what was kept under the name, or under `ref`, where it replaces what that named."""
        with self.lock():
            self.add_entries_locked({self.ref if ref is None else ref: entry})

    def add_entries_locked(self, entries: Mapping[str, Descriptor]) -> None:
        """As `add_entry`, of several names, for who has locked the layout."""
        named = {
            ref: replace(entry, annotations={REF_NAME: ref} if ref else {}) for ref, entry in entries.items()
        }
        self._write(self.path / INDEX_FILE, self._index_with(named))

    def _ensure_layout(self) -> None:
        with self._lock:
            if not self._ready:
                self._create_if_missing()
                self._ready = True

    def _create_if_missing(self) -> None:
        """Makes the directory a layout, without an image at first, unless it is one."""
        blobs = self.path / "blobs/sha256"
        with map_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                with self.lock():
                    if not (self.path / LAYOUT_FILE).exists():
                        self._create()
                blobs.mkdir(parents=True, exist_ok=True)
            except (OSError, StoreError):
                for made in (blobs, blobs.parent, self.path):
                    with suppress(OSError):
                        made.rmdir()  # where there is nothing in it
                raise

    def _create(self) -> None:
        index = self.path / INDEX_FILE
        if not all(found.name.startswith(HIDDEN) for found in self.path.iterdir()):
            raise InputError(f"{self.path} is not an OCI layout", why=f"it has files, but no {LAYOUT_FILE}")
        self._write(index, Index.of([]).raw)
        try:
            self._write(self.path / LAYOUT_FILE, LAYOUT_VERSION)
        except StoreError:
            index.unlink(missing_ok=True)
            raise

    def _has_wanted_form(self, stored: Descriptor) -> bool:
        """Whether a layer that is there is what a new one would be: not gzip where zstd is asked for."""
        return (stored.media_type == MediaType.OCI_LAYER_ZSTD) == (self.compression is Compression.ZSTD)

    def _has_blob(self, descriptor: Descriptor) -> bool:
        path = self.path / blob_name(descriptor.digest)
        with map_errors(path):
            return path.is_file() and path.stat().st_size == descriptor.size

    def _is_intact(self, descriptor: Descriptor) -> bool:
        """Whether a blob that is there has its digest: a damaged one is written again."""
        try:
            for _ in verify(self._blob_reader(descriptor)(), descriptor.digest, descriptor.size):
                pass
        except FormatError:
            return False
        return True

    def _blob_reader(self, descriptor: Descriptor) -> partial[Iterator[bytes]]:
        return partial(Directory(self.path).chunks, blob_name(descriptor.digest))

    def _write_blob(self, descriptor: Descriptor, chunks: Chunks) -> None:
        if self._has_blob(descriptor) and self._is_intact(descriptor):
            return
        with open_draft(self.path) as new:
            for chunk in verify(chunks(), descriptor.digest, descriptor.size):
                new.file.write(chunk)
            new.publish(self.path / blob_name(descriptor.digest))

    def _compress(self, layer: Layer) -> Layer:
        with open_draft(self.path) as new:
            stored = tee(layer, new.file.write, self.compression)
            assert stored.descriptor is not None  # tee always gives one
            new.publish(self.path / blob_name(stored.descriptor.digest))
        return replace(stored, blob=self._blob_reader(stored.descriptor))

    def _write(self, path: Path, data: bytes) -> None:
        with open_draft(self.path) as new:
            new.file.write(data)
            new.publish(path)

    def _index_with(self, entries: Mapping[str, Descriptor]) -> bytes:
        """The index with entries for those of their names; what this program does not know stays as it is."""
        if not (self.path / INDEX_FILE).exists():
            return Index.of(entries.values()).raw
        index = read_index(Directory(self.path), str(self.path))
        fields = dict(JsonNode.parse(index.raw, INDEX_FILE).fields)
        pairs = zip(fields.get("manifests") or [], index.manifests, strict=True)
        others = [raw for raw, known in pairs if known.annotations.get(REF_NAME, "") not in entries]
        new = [entry.fields() for entry in entries.values()]
        return json_bytes({**fields, "manifests": [*others, *new]})

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the layout against other processes that use packhorse."""
        with map_errors(self.path):
            directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(directory, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(directory)


class Directory:
    """The files of a layout directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def content(self, name: str, *, limit: int) -> bytes:
        try:
            file = OpenFile.open(self._path / name)
        except NotFoundError as error:
            if not name.startswith("blobs/"):
                raise
            raise NotFoundError(
                f"{self._path} has no {name}",
                why="an image there is made of it, so the layout is not whole",
                fix="copy the image there again from where it came",
            ) from error
        if file.size > limit:
            raise FormatError(
                f"{self._path / name} is too large", why=f"{file.size} bytes of at most {limit}"
            )
        return file.read_at(0, limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        try:
            file = OpenFile.open(self._path / name)
        except NotFoundError as error:
            raise FormatError(
                f"{self._path} has no {name}",
                why="it is not whole, or sparse: written without the layers of a run image",
                fix="have the image brought there with all its layers, or this one to where those are",
            ) from error
        yield from file.chunks()


def find_entries(index: Index, ref: str, where: str) -> list[Descriptor]:
    """The entries of a layout's index with this name, at least one; raises NotFoundError."""
    names = [item.annotations.get(REF_NAME, "") for item in index.manifests]
    images = {name for name in names if not is_attachment_tag(name)}
    if not ref and "" not in images and len(images) == 1:
        (ref,) = images
    found = [item for item, name in zip(index.manifests, names, strict=True) if name == ref]
    if found:
        return found
    there = ", ".join(sorted(images - {""})) or "no name"
    what = f"{where} has no image named {ref!r:.100}" if ref else f"{where} does not have just one image"
    raise NotFoundError(
        what, why=f"its index has: {there}", fix="give one of the names after the path and a colon"
    )


def _unpacks_to_diff_id(layer: Layer) -> bool:
    """Whether a stored layer unpacks to its diff ID: another image here may only claim that it does."""
    try:
        for _ in layer.tar():
            pass
    except FormatError:
        return False
    return True


def _stored_layers(files: LayoutFiles) -> dict[Digest, Descriptor]:
    """The stored form of every layer that some image of a layout has, by diff ID, as the images claim it."""
    found: dict[Digest, Descriptor] = {}
    with suppress(NotFoundError):
        for entry in read_index(files, INDEX_FILE).manifests:
            with suppress(
                NotFoundError, FormatError
            ):  # an image that cannot be read is no reason not to write
                manifest = Manifest.parse(read_blob(files, entry), entry.media_type)
                config = Config.parse(read_blob(files, manifest.config))
                found |= dict(zip(config.diff_ids, manifest.layers, strict=False))
    return found


class LayoutName:
    """One name in the files of a layout, and if it is a directory's, the layout to write to."""

    def __init__(self, files: LayoutFiles, ref: str, where: str, *, layout: Layout | None = None) -> None:
        self._files = files
        self._ref = ref
        self._where = where
        self._layout = layout
        self._subjects: dict[Digest, list[Referrer]] | None = None

    def root(self) -> Document:
        """What the name stands for; of a name that stands beside several entries, an index of these."""
        entries = find_entries(read_index(self._files, self._where), self._ref, self._where)
        if len(entries) == 1:
            return self.member(entries[0])
        return Index.of(replace(entry, annotations={}) for entry in entries)

    def member(self, entry: Descriptor) -> Document:
        """What an entry describes."""
        return read_document(self._files, entry, self._where)

    def image(self, entry: Descriptor) -> Image:
        """The image that an entry describes."""
        return read_entry(self._files, entry, self._where)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob."""
        return self._files.chunks(blob_name(blob.digest))

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes a blob unless it is there."""
        self._require_layout.add_blob(blob, chunks)

    def write_document(self, document: Document) -> None:
        """Writes a manifest or index as a blob."""
        self._require_layout.add_blob(document.descriptor, lambda: iter([document.raw]))

    def set_name(self, document: Document) -> None:
        """Puts it into the layout's index under the name."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """What names a document as its subject: by the list under the tag for it, or in the index itself."""
        if self._subjects is None:
            self._subjects = self._find_subjects()
        listed = self._read_list(referrers_tag(subject))
        known = {each.descriptor.digest for each in listed}
        own = self._subjects.get(subject, ())
        return [*listed, *(each for each in own if each.descriptor.digest not in known)]

    def read_tag(self, tag: str) -> Document | None:
        """What the index has under another name."""
        try:
            entries = find_entries(read_index(self._files, self._where), tag, self._where)
        except NotFoundError:
            return None
        return self.member(entries[0])

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Keeps a document, and puts it on the list under the tag for its subject."""
        self.write_document(document)
        tag, own = referrers_tag(subject), Referrer.of(document)
        with self._require_layout.lock():
            there = self._read_list(tag)
            if all(each.descriptor.digest != own.descriptor.digest for each in there):
                index = index_of_referrers([*there, own])
                self.write_document(index)
                self._require_layout.add_entries_locked({tag: index.descriptor})

    def write_tag(self, tag: str, document: Document) -> None:
        """Puts a document into the index under another name."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor, tag)

    def add_entries(self, entries: Mapping[str, Descriptor]) -> None:
        """Puts what was kept into the index under several names at once, or no name at all."""
        if entries:
            with self._require_layout.lock():
                self._require_layout.add_entries_locked(entries)

    def _read_list(self, tag: str) -> list[Referrer]:
        found = self.read_tag(tag) if self._exists() else None
        return list(parse_referrers(found.raw)) if isinstance(found, Index) else []

    def _exists(self) -> bool:
        """Whether there is a layout yet."""
        try:
            read_index(self._files, self._where)
        except NotFoundError:
            return False
        return True

    def _find_subjects(self) -> dict[Digest, list[Referrer]]:
        """What in the index has a subject, as ORAS leaves it there."""
        found: dict[Digest, list[Referrer]] = {}
        for entry in read_index(self._files, self._where).manifests:
            with suppress(FormatError, NotFoundError):  # what cannot be read refers to nothing
                document = self.member(entry)
                subject = subject_of(document)
                if subject:
                    found.setdefault(subject, []).append(Referrer.of(document))
        return found

    @property
    def _require_layout(self) -> Layout:
        assert self._layout is not None  # nobody writes to an archive so
        return self._layout
