"""Records the names of a store's images, and writes the `index.json` that other OCI tools read.

The bytes of the images are in `blobs` and `snapshots`. `place` and `Store` use this module.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Self

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NotFoundError, StoreError
from packhorse.oci.reference import Reference
from packhorse.oci.types import REF_NAME, Descriptor, Index, JsonNode
from packhorse.store.leases import Lease, lock_file, map_errors, read, write, write_bytes

EMPTY = b'{"images": []}'
"""The `images.json` of a new store."""

_ID = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One name in the store, and the image it stands for.

    `layers` are diff IDs, lowest first. `manifest` and `listed` are None unless all blobs they name are in
    the store. `listed` is the descriptor in `index.json`: that of the manifest, or of an OCI manifest over
    the same blobs if the manifest is docker's, which other tools do not accept in a layout. `created` is the
    time the image got the name, RFC 3339, for people. `annotations` are for a manifest that is not made yet.
    `checked` means that a digest in the name was compared with the image when it got the name.
    """

    name: Reference
    id: Digest
    target: Target
    created: str
    layers: tuple[Digest, ...]
    manifest: Descriptor | None = None
    listed: Descriptor | None = None
    annotations: tuple[tuple[str, str], ...] = ()
    checked: bool = False

    @property
    def has_right_digest(self) -> bool:
        """Whether the digest in the name is this image's; also true without one.

        Earlier versions accepted any digest. False too for an image that they pulled through an index,
        because no record shows the digest of the index.
        """
        documents = [each.digest for each in (self.manifest, self.listed) if each]
        return self.checked or self.name.digest in (None, self.id, *documents)

    @classmethod
    def parse(cls, node: JsonNode) -> Self:
        """Reads one entry of `images.json`; raises FormatError or InputError."""
        target = node.node("target") or JsonNode({}, node.where)
        manifest, listed = node.node("manifest"), node.node("listed")
        return cls(
            name=Reference.parse(node.text("name")),
            id=node.digest("id"),
            target=Target(target.text("os"), target.text("arch"), target.text("variant")),
            created=node.text("created"),
            layers=node.digests("layers"),
            manifest=None if manifest is None else Descriptor.parse(manifest),
            listed=None if listed is None else Descriptor.parse(listed),
            annotations=tuple(sorted(node.mapping("annotations").items())),
            checked=node.flag("checked"),
        )

    def fields(self) -> dict[str, Any]:
        """The entry of `images.json`."""
        target = {"os": self.target.os, "arch": self.target.arch, "variant": self.target.variant}
        fields: dict[str, Any] = {
            "name": str(self.name),
            "id": str(self.id),
            "target": target,
            "created": self.created,
            "layers": [str(layer) for layer in self.layers],
        }
        if self.manifest:
            fields["manifest"] = self.manifest.fields()
        if self.listed:
            fields["listed"] = self.listed.fields()
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.checked:
            fields["checked"] = True
        return fields


@dataclass(frozen=True, slots=True)
class RemovedNames:
    """The result of a removal: the names removed, and the image ID if the image has no name left."""

    untagged: tuple[Reference, ...]
    deleted: Digest | None


class Images:
    """Reads and writes `images.json`, and `index.json` with the images that have all their blobs."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._path = lease.store / "images.json"
        self._index = lease.store / "index.json"

    def all(self) -> tuple[ImageRecord, ...]:
        """The records of all names, sorted by name. Raises StoreError if the list is damaged."""
        return tuple(sorted(self._read().values(), key=lambda item: str(item.name)))

    def find(self, text: str) -> ImageRecord:
        """The image with the name `text`, or with an ID that begins with it.

        Raises NotFoundError, and InputError if several IDs begin with it.
        """
        return _find(text, self._read())

    def set_name(self, new: ImageRecord) -> ImageRecord | None:
        """Records an image under its name; returns the record that it replaces."""
        with self._lock():
            names = self._read()
            before = names.get(str(new.name))
            names[str(new.name)] = new
            self._write(names)
        return before

    def remove(self, text: str, *, force: bool = False) -> RemovedNames:
        """Removes a name, or with an ID all names of the image, as `docker rmi` does.

        Raises NotFoundError. Raises InputError if an ID has several names, unless `force`.
        """
        with self._lock():
            names = self._read()
            found = _find(text, names)
            same = [item for item in names.values() if item.id == found.id]
            named = _find_named(text, names)
            if named is None and len(same) > 1 and not force:
                listed = ", ".join(item.name.familiar for item in same)
                raise InputError(
                    f"image {found.id.short} has several names",
                    why=listed,
                    fix="give the name to remove, or force the removal of all",
                )
            gone = same if named is None else [named]
            for item in gone:
                del names[str(item.name)]
            self._write(names)
        return RemovedNames(tuple(item.name for item in gone), found.id if len(gone) == len(same) else None)

    def repair_index(self) -> None:
        """Writes `index.json` again if necessary: a killed command may not have updated it."""
        with self._lock():
            self._write_index(self.all())

    def _lock(self) -> AbstractContextManager[None]:
        return lock_file(self._lease.store / "locks" / "names")

    def _read(self) -> dict[str, ImageRecord]:
        fields = read(self._path)
        try:
            if fields is None:
                raise FormatError("it is not JSON" if self._path.exists() else "it is missing")
            entries = [ImageRecord.parse(node) for node in JsonNode(fields, self._path.name).nodes("images")]
        except (FormatError, InputError) as error:
            raise StoreError(
                f"the list of images is damaged: {self._path}",
                why=str(error),
                fix=f"start a new list, then pull or build the images again: "
                f"echo '{EMPTY.decode()}' > {shlex.quote(str(self._path))}",
            ) from error
        return {str(entry.name): entry for entry in entries}

    def _write(self, names: Mapping[str, ImageRecord]) -> None:
        """Writes `images.json`, then `index.json`, which can be made from it."""
        ordered = [names[key] for key in sorted(names)]
        write(self._lease, self._path, {"images": [item.fields() for item in ordered]})
        self._write_index(ordered)

    def _write_index(self, ordered: Sequence[ImageRecord]) -> None:
        """Writes `index.json` if it differs from the list, which is rare."""
        index, before = _make_index(ordered), b""
        with map_errors(self._index), suppress(FileNotFoundError):
            before = self._index.read_bytes()
        if before != index:
            write_bytes(self._lease, self._index, index)


def _make_index(records: Iterable[ImageRecord]) -> bytes:
    """The index of the OCI layout, with the images that have all blobs (image-spec, image-layout.md)."""
    return Index.of(
        Descriptor(
            item.listed.media_type,
            item.listed.digest,
            item.listed.size,
            item.target,
            {REF_NAME: item.name.familiar},
        )
        for item in records
        if item.listed
    ).raw


def _find(text: str, names: Mapping[str, ImageRecord]) -> ImageRecord:
    named = _find_named(text, names)
    if named is not None:
        return named
    match = _ID.fullmatch(text)
    found = [item for item in names.values() if match and item.id.hex.startswith(match[1])]
    if len({item.id for item in found}) > 1:
        listed = ", ".join(sorted({item.id.short for item in found}))
        raise InputError(
            f"several images have an ID that begins with {text}", why=listed, fix="give more of it"
        )
    if not found:
        raise NotFoundError(f"no image {text!r} in the store", fix="`packhorse images` lists what there is")
    return found[0]


def _find_named(text: str, names: Mapping[str, ImageRecord]) -> ImageRecord | None:
    try:
        return names.get(str(Reference.parse(text)))
    except InputError:
        return None
