"""④ `oci-archive:FILE[:REF]`: a tar of an OCI image layout with one image, as a `Place`.

The same image always gives the same bytes. What a layout is stands in `image.layout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from packhorse.base.dataclass import replace
from packhorse.errors import FormatError, NotFoundError
from packhorse.image.compress import tee, verify
from packhorse.image.file import OpenFile, open_draft, resolve_target
from packhorse.image.layout import (
    INDEX_FILE,
    LAYOUT_FILE,
    LAYOUT_VERSION,
    OCI_ONLY,
    LayoutFiles,
    NamedLayout,
    blob_name,
    index_entry,
)
from packhorse.image.model import Descriptor, Index
from packhorse.image.place import Receipt
from packhorse.image.ustar import TarIndex, TarWriter
from packhorse.image.view import Image, Layer, make_manifest


class OciArchive(NamedLayout):
    """An image in an archive of a layout. Writing replaces the archive whole."""

    def files(self) -> LayoutFiles:
        """The files of the layout in the archive; raises NotFoundError, FormatError."""
        return archive_files(self.path)

    def write_layer(self, layer: Layer) -> Layer:
        """Compresses a layer without a stored form into a file without a name; others wait for the commit."""
        if layer.descriptor and layer.blob:
            return layer
        spool = OpenFile.spool(self.path.parent)
        return replace(tee(layer, spool.append, self.compression), blob=spool.chunks)

    def write_image(self, image: Image) -> Receipt:
        """Writes the archive, index first and then every blob once, the layers in their order."""
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
    """The files of the layout in an archive; raises NotFoundError, FormatError."""
    return _ArchiveFiles(TarIndex.read(path))


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
