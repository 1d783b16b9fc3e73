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
from functools import partial
from pathlib import Path
from typing import Protocol

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.go_json import json_bytes
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.attached import Referrer, index_of_referrers, parse_referrers, referrers_tag, subject_of
from packhorse.oci.compress import Compression, stored_image, stored_layer, tee, verify
from packhorse.oci.files import HIDDEN, OpenFile, map_errors, open_draft
from packhorse.oci.place import Chunks, Image, Layer, Receipt, make_manifest
from packhorse.oci.reference import is_attachment_tag
from packhorse.oci.types import (
    MANIFEST_LIMIT,
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
"""The media types of manifests in layouts: skopeo and umoci find no image there under docker's media type."""


class LayoutFiles(Protocol):
    """The files of a layout by name: in a directory or an archive."""

    def content(self, name: str, *, limit: int) -> bytes:
        """Reads a small file; raises NotFoundError, and FormatError if it has more than `limit` bytes."""
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yields a file's bytes in chunks; raises NotFoundError or FormatError if it is missing."""
        ...


def blob_name(digest: Digest) -> str:
    """Returns the name of a blob's file (image-spec, image-layout.md "Blobs")."""
    return f"blobs/sha256/{digest.hex}"


def read_image(files: LayoutFiles, ref: str, *, target: Target | None, where: str) -> Image:
    """Reads the image named `ref` from a layout, or if `ref` is "", the only one.

    `target` selects among several images under one name; the default is the host's target. Errors call the
    layout `where`. Raises NotFoundError, and FormatError for a layout that contradicts itself.
    """
    index, read = read_index(files, where), partial(read_document, files, where=where)
    entries = find_entries(index, ref, where)
    root = read(entries[0]) if len(entries) == 1 else replace(index, manifests=tuple(entries))
    name = f"{where}:{ref}" if ref else where
    manifest, indexes = find_manifest(root, target or Target.host(), read, where=name)
    among = indexes[0].targets if indexes else None
    # If the name has several entries, the first index is made up of them, and identifies nothing.
    known_by = tuple(each.digest for each in indexes[len(entries) > 1 :])
    return replace(_read_image(files, manifest, name), all_targets=among, known_digests=known_by)


def read_entry(files: LayoutFiles, entry: Descriptor, where: str) -> Image:
    """Reads the image whose manifest `entry` describes; raises NotFoundError, FormatError."""
    return _read_image(files, Manifest.parse(read_blob(files, entry, where), entry.media_type), where)


def read_document(files: LayoutFiles, entry: Descriptor, where: str) -> Document:
    """Reads the manifest or index that `entry` describes; raises NotFoundError, FormatError."""
    return parse_document(read_blob(files, entry, where), entry.media_type)


def _read_image(files: LayoutFiles, manifest: Manifest, where: str) -> Image:
    config = Config.parse(read_blob(files, manifest.config, where))

    def blob(descriptor: Descriptor) -> Chunks:
        return partial(files.chunks, blob_name(descriptor.digest))

    return stored_image(manifest, config, blob, where=where)


def read_blob(files: LayoutFiles, descriptor: Descriptor, where: str = "") -> bytes:
    """Reads a small blob, and verifies it by its descriptor; raises NotFoundError, FormatError."""
    content = files.content(blob_name(descriptor.digest), limit=min(descriptor.size, MANIFEST_LIMIT))
    return b"".join(verify([content], descriptor.digest, descriptor.size, where=where))


def read_index(files: LayoutFiles, where: str) -> Index:
    """Reads the index of a layout; raises NotFoundError if there is no layout, FormatError if broken."""
    layout = JsonNode.parse(files.content(LAYOUT_FILE, limit=MANIFEST_LIMIT), f"{where}: {LAYOUT_FILE}")
    version = layout.text("imageLayoutVersion")
    if not version.startswith("1."):
        layout.fail("imageLayoutVersion", f"it is {version!r:.40}; only version 1 can be read")
    return Index.parse(files.content(INDEX_FILE, limit=MANIFEST_LIMIT))


def index_entry(image: Image, manifest: Manifest, ref: str) -> Descriptor:
    """Makes an image's entry in the index of a layout: manifest, target, and the name unless `ref` is "".

    Raises InputError if `ref` has the digest of another image.
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


class NamedLayout(ABC):
    """The image `ref` in the layout at `path`, a directory or an archive.

    If `ref` is "", it is the image without a name, or the only image. `target` selects among several images
    under one name; the default is the host's target. `compression` is for layers without a stored form.
    """

    def __init__(
        self,
        path: Path,
        ref: str = "",
        *,
        target: Target | None = None,
        compression: Compression = Compression.GZIP,
    ) -> None:
        self.path = path
        self.ref = ref
        self.target = target
        self.compression = compression

    def names(self) -> tuple[str, ...]:
        """Returns the names of all images, "" for those without one; raises NotFoundError, FormatError."""
        entries = read_index(self.files(), str(self.path)).manifests
        found = (entry.annotations.get(REF_NAME, "") for entry in entries)
        return tuple(dict.fromkeys(name for name in found if not is_attachment_tag(name)))

    def read(self) -> Image:
        """Reads the image under this name; raises NotFoundError, FormatError, StoreError."""
        return read_image(self.files(), self.ref, target=self.target, where=str(self.path))

    @abstractmethod
    def files(self) -> LayoutFiles:
        """Returns the files of the layout; raises NotFoundError, FormatError."""


class Layout(NamedLayout):
    """An image in a layout directory.

    A blob that is there and intact is not written again. Blobs are never removed, because other images may
    need them. The blobs of the layers `without` are not written, only named in the manifest.
    """

    def __init__(
        self,
        path: Path,
        ref: str = "",
        *,
        target: Target | None = None,
        compression: Compression = Compression.GZIP,
        without: frozenset[Digest] = frozenset(),
    ) -> None:
        super().__init__(path, ref, target=target, compression=compression)
        self.without = without
        self._ready = False
        self._known: dict[Digest, Descriptor] | None = None
        self._lock = threading.Lock()

    def files(self) -> LayoutFiles:
        """Returns the files below the directory."""
        return Directory(self.path)

    def write_layer(self, layer: Layer) -> Layer:
        """Writes one layer, as its blob or compressed; raises InputError if the directory is no layout."""
        self._ensure_layout()
        if layer.diff_id in self.without:
            return layer if layer.descriptor else tee(layer, lambda _: None, self.compression)
        if layer.descriptor and layer.blob:
            self._write_blob(layer.descriptor, layer.blob)
            return replace(layer, blob=self._blob_reader(layer.descriptor))
        with self._lock:
            if self._known is None:  # reads every image of the layout, so only if it is needed
                self._known = _stored_layers(Directory(self.path))
        stored = self._known.get(layer.diff_id) if layer.diff_id else None
        if layer.diff_id and stored and self._has_wanted_form(stored) and self._has_blob(stored):
            found = stored_layer(self._blob_reader(stored), stored, layer.diff_id, where=str(self.path))
            if _unpacks_to_diff_id(found):
                return replace(found, size=layer.size)
        return self._compress(layer)

    def write_image(self, image: Image) -> Receipt:
        """Writes config and manifest, and sets the name in the index, replacing its old entries."""
        self._ensure_layout()
        manifest = make_manifest(image, accepts=OCI_ONLY)
        self._write_blob(manifest.config, lambda: iter([image.config.raw]))
        self._write_blob(manifest.descriptor, lambda: iter([manifest.raw]))
        with self.lock():
            index = self._index_with({self.ref: index_entry(image, manifest, self.ref)})
            self._write(self.path / INDEX_FILE, index)
        return Receipt(image.id, manifest.digest, len(manifest.raw))

    def add_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes any blob unless it is there and intact; raises InputError if the directory is no layout."""
        self._ensure_layout()
        self._write_blob(blob, chunks)

    def add_entry(self, entry: Descriptor, ref: str | None = None) -> None:
        """Sets the name, or `ref`, to what `entry` describes, replacing its old entries in the index."""
        with self.lock():
            self.add_entries_locked({self.ref if ref is None else ref: entry})

    def add_entries_locked(self, entries: Mapping[str, Descriptor]) -> None:
        """Sets several names, as `add_entry` does. The caller holds `lock`."""
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
        """Makes the directory a layout without images, unless it is a layout."""
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
                        made.rmdir()  # fails unless it is empty
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
        """Whether a stored layer has the compression that new layers get: zstd or not."""
        return (stored.media_type == MediaType.OCI_LAYER_ZSTD) == (self.compression is Compression.ZSTD)

    def _has_blob(self, descriptor: Descriptor) -> bool:
        path = self.path / blob_name(descriptor.digest)
        with map_errors(path):
            return path.is_file() and path.stat().st_size == descriptor.size

    def _is_intact(self, descriptor: Descriptor) -> bool:
        """Whether a blob that is there has its digest."""
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
        """Returns the index with `entries` instead of those with their names; all else in it is kept."""
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
        """Locks the layout against other packhorse processes."""
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
                why="an image there needs it, so the layout is incomplete",
                fix="copy the image there again from its source",
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
                why="the layout is incomplete, or sparse: written without the layers of the run image",
                fix="write the image there with all its layers, or move it to a layout that has them",
            ) from error
        yield from file.chunks()


def find_entries(index: Index, ref: str, where: str) -> list[Descriptor]:
    """Returns the entries of a layout's index with this name, at least one; raises NotFoundError.

    If `ref` is "", these are the entries without a name, or those of the only name.
    """
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
    """Whether a stored layer unpacks to its diff ID. An image in the layout only claims that it does."""
    try:
        for _ in layer.tar():
            pass
    except FormatError:
        return False
    return True


def _stored_layers(files: LayoutFiles) -> dict[Digest, Descriptor]:
    """Returns the stored form of every layer in a layout, by diff ID, as its images claim it."""
    found: dict[Digest, Descriptor] = {}
    with suppress(NotFoundError):
        for entry in read_index(files, INDEX_FILE).manifests:
            with suppress(NotFoundError, FormatError):  # a broken image must not prevent writing others
                manifest = Manifest.parse(read_blob(files, entry), entry.media_type)
                config = Config.parse(read_blob(files, manifest.config))
                found |= dict(zip(config.diff_ids, manifest.layers, strict=False))
    return found


class LayoutName:
    """One name in a layout, with everything under it. Writing needs `layout`, which archives do not have."""

    def __init__(self, files: LayoutFiles, ref: str, where: str, *, layout: Layout | None = None) -> None:
        self._files = files
        self._ref = ref
        self._where = where
        self._layout = layout
        self._subjects: dict[Digest, list[Referrer]] | None = None

    def root(self) -> Document:
        """Reads the manifest or index under the name, or makes an index of the entries if it has several."""
        entries = find_entries(read_index(self._files, self._where), self._ref, self._where)
        if len(entries) == 1:
            return self.member(entries[0])
        return Index.of(replace(entry, annotations={}) for entry in entries)

    def member(self, entry: Descriptor) -> Document:
        """Reads the manifest or index that an entry describes."""
        return read_document(self._files, entry, self._where)

    def image(self, entry: Descriptor) -> Image:
        """Reads the image that an entry describes."""
        return read_entry(self._files, entry, self._where)

    def blob(self, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob."""
        return self._files.chunks(blob_name(blob.digest))

    def write_blob(self, blob: Descriptor, chunks: Chunks) -> None:
        """Writes a blob unless it is there and intact."""
        self._require_layout.add_blob(blob, chunks)

    def write_document(self, document: Document) -> None:
        """Writes a manifest or index as a blob."""
        self._require_layout.add_blob(document.descriptor, lambda: iter([document.raw]))

    def set_name(self, document: Document) -> None:
        """Writes a manifest or index, and sets the name in the layout's index."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor)

    def referrers(self, subject: Digest) -> Sequence[Referrer]:
        """Lists what names `subject` as its subject: from the list under its tag, and from the index."""
        if self._subjects is None:
            self._subjects = self._find_subjects()
        listed = self._read_list(referrers_tag(subject))
        known = {each.descriptor.digest for each in listed}
        own = self._subjects.get(subject, ())
        return [*listed, *(each for each in own if each.descriptor.digest not in known)]

    def read_tag(self, tag: str) -> Document | None:
        """Reads the manifest or index under another name; None if there is none."""
        try:
            entries = find_entries(read_index(self._files, self._where), tag, self._where)
        except NotFoundError:
            return None
        return self.member(entries[0])

    def write_referrer(self, document: Document, subject: Digest) -> None:
        """Writes a document, and adds it to the list under the tag for its subject."""
        self.write_document(document)
        tag, own = referrers_tag(subject), Referrer.of(document)
        with self._require_layout.lock():
            there = self._read_list(tag)
            if all(each.descriptor.digest != own.descriptor.digest for each in there):
                index = index_of_referrers([*there, own])
                self.write_document(index)
                self._require_layout.add_entries_locked({tag: index.descriptor})

    def write_tag(self, tag: str, document: Document) -> None:
        """Writes a document under another name."""
        self.write_document(document)
        self._require_layout.add_entry(document.descriptor, tag)

    def add_entries(self, entries: Mapping[str, Descriptor]) -> None:
        """Sets several names in the index at once; "" is no name. The documents were written before."""
        if entries:
            with self._require_layout.lock():
                self._require_layout.add_entries_locked(entries)

    def _read_list(self, tag: str) -> list[Referrer]:
        found = self.read_tag(tag) if self._exists() else None
        return list(parse_referrers(found.raw)) if isinstance(found, Index) else []

    def _exists(self) -> bool:
        """Whether the layout exists."""
        try:
            read_index(self._files, self._where)
        except NotFoundError:
            return False
        return True

    def _find_subjects(self) -> dict[Digest, list[Referrer]]:
        """Finds the documents in the index that have a subject, as ORAS writes referrers."""
        found: dict[Digest, list[Referrer]] = {}
        for entry in read_index(self._files, self._where).manifests:
            with suppress(FormatError, NotFoundError):  # a broken document is no referrer
                document = self.member(entry)
                subject = subject_of(document)
                if subject:
                    found.setdefault(subject, []).append(Referrer.of(document))
        return found

    @property
    def _require_layout(self) -> Layout:
        assert self._layout is not None  # `host.wiring` makes a writable place only for a directory
        return self._layout
