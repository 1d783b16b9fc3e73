"""Copies an image, all images of a name, or every tag of a repository. Called by `cli.images`.

With `--all-tags` several tags are copied at a time. An image that several tags name is copied once, and a tag
that the destination already has is skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.base.threads import thread_pool
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.fleet.pipeline import map_in_order
from packhorse.fleet.selection import list_images
from packhorse.host.wiring import Wiring
from packhorse.lifecycle.labels import LIFECYCLE, LayersMetadata
from packhorse.oci.layout import OCI_ONLY, LayoutName
from packhorse.oci.place import DocumentSource, Image, copy_documents, members, push_image
from packhorse.oci.reference import Location, LocationKind
from packhorse.oci.types import Document, Index, find_manifest
from packhorse.report.owners import LayerPart, owned_layers


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What to copy of a name: the image for `target` (None is this machine), or `all_images` unchanged.

    `referrers` also copies what is attached to them. `sparse` leaves out the layers of the run image.
    """

    target: Target | None = None
    all_images: bool = False
    compression: str = "gzip"
    referrers: bool = False
    sparse: bool = False


def copy(
    wiring: Wiring,
    source: Location,
    destination: Location,
    options: CopyOptions,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Digest:
    """Copies what a name stands for; returns the digest or image ID by which the destination knows it.

    Raises NotFoundError if the name has no image for the target, and the errors of the two places.
    """
    if options.referrers:
        return _copy_with_referrers(wiring, source, destination, options, say)
    if options.all_images:
        from packhorse.oci.place import copy_all

        start, end = wiring.index_place(source), wiring.index_place(destination, writes=True)
        return copy_all(start, end, meter=wiring.meter, name=f"copying {source}").digest
    image = _read(wiring, source, options.target)
    without = run_image_layers(image, source) if options.sparse else frozenset()
    place = wiring.place(destination, compression=options.compression, without=without, check=True)
    receipt = push_image(image, place, meter=wiring.meter, name=f"copying {source}")
    return receipt.manifest_digest or receipt.image_id


def run_image_layers(image: Image, location: Location) -> frozenset[Digest]:
    """Returns the layers that an image has from its run image; InputError if no label names them."""
    metadata = LayersMetadata.parse(image.config.labels.get(LIFECYCLE, ""))
    found = {each.layer.diff_id for each in owned_layers(image, metadata) if each.part is LayerPart.BASE}
    base = frozenset(diff_id for diff_id in found if diff_id)
    if not base:
        raise InputError(
            f"{location} cannot be written without its run image",
            why="it does not say which of its layers that is: it was not built by buildpacks",
            fix="leave out --sparse",
        )
    return base


def _read(wiring: Wiring, source: Location, target: Target | None) -> Image:
    with wiring.meter.task(f"looking up {source}"):
        image = wiring.place(source, target=target).read()
    if target and (image.config.os, image.config.architecture) != (target.os, target.arch):
        raise NotFoundError(f"{source} is for {image.config.target}, not for {target}", fix="check --target")
    return image


def _copy_with_referrers(
    wiring: Wiring, source: Location, destination: Location, options: CopyOptions, say: Callable[[str], None]
) -> Digest:
    """Copies an image, or all images of a name, unchanged, then what is attached, and the name last."""
    from packhorse.oci.attached import copy_attachments
    from packhorse.oci.place import copy_documents, members

    start, end = wiring.index_place(source), wiring.index_place(destination, writes=True)
    root = start.root()
    if not options.all_images and (options.target or isinstance(root, Index)):
        manifest = _read(wiring, source, options.target).manifest
        assert manifest is not None  # every place with an index has manifests
        root = manifest
    documents = [*members(start, root), root]
    copy_documents(start, end, documents, meter=wiring.meter, name=f"copying {source}")
    count = copy_attachments(start, end, [document.digest for document in documents])
    end.set_name(root)
    say(f"copied {count or 'no'} referrer{'' if count == 1 else 's'} too")
    return root.digest


_JOBS = 8  # tags at a time: most of the time is waiting for a registry
_AHEAD = 4  # tags per thread that are read ahead
_BATCH = 200  # tags that are added to a layout's index at once, because each time the whole index is written
_STOP_TIMEOUT = 3.0

TagRow = tuple[str, Digest | PackhorseError]


def copy_tags(
    wiring: Wiring, source: Location, destination: Location, options: CopyOptions
) -> Iterator[TagRow]:
    """Copies each tag of a repository and yields its digest or error, in order. A failure stops no other tag.

    Raises InputError for places that have no tags, and the errors of listing tags.
    """
    if source.kind is not LocationKind.REGISTRY:
        raise InputError(f"{source} has no list of tags", fix="write docker://REGISTRY/REPOSITORY")
    if source.reference.tag or source.reference.digest:
        raise InputError(f"{source} is one image", fix="leave out its tag or digest")
    _with_tag(destination, "any")
    copying = _TagCopier(wiring, destination, options)
    jobs = _JOBS if destination.kind in (LocationKind.OCI, LocationKind.REGISTRY) else 1
    with thread_pool(jobs, "tag", timeout=_STOP_TIMEOUT) as workers:
        rows = map_in_order(workers, copying.copy_tag, list_images(wiring, source.name), most=_AHEAD * _JOBS)
        if destination.kind is not LocationKind.OCI:
            yield from rows
            return
        batch: list[TagRow] = []
        try:
            for row in rows:
                batch.append(row)
                if len(batch) == _BATCH:
                    full, batch = batch, []
                    yield from copying.enter_names(full)
        except PackhorseError:  # the list of tags ended with an error; the tags before it are copied
            yield from copying.enter_names(batch)
            raise
        yield from copying.enter_names(batch)


class _TagCopier:
    """Copies the tags of one repository, in several threads."""

    def __init__(self, wiring: Wiring, destination: Location, options: CopyOptions) -> None:
        self._wiring = wiring
        self._destination = destination
        self._options = options
        self._existing_tags = frozenset(self._list_existing_tags())
        self._copied: set[Digest] = set()
        self._attached: set[Digest] = set()
        self._turns: dict[Digest, threading.Lock] = {}
        self._kept: dict[str, Document] = {}
        self._lock = threading.Lock()

    def copy_tag(self, location: Location) -> TagRow:
        """Copies one tag; returns its name and its digest or error."""
        tag = location.reference.tag or ""
        try:
            return tag, self._copy(location, _with_tag(self._destination, tag), tag)
        except PackhorseError as error:
            return tag, error

    def enter_names(self, rows: list[TagRow]) -> list[TagRow]:
        """Writes copied tags into the index of a layout. If that fails, their rows get the error."""
        with self._lock:
            kept = {tag: self._kept.pop(tag) for tag, _ in rows if tag in self._kept}
        entries = {tag: document.descriptor for tag, document in kept.items()}
        place = self._wiring.index_place(self._destination, writes=True)
        assert isinstance(place, LayoutName)  # `copy_tags` calls this only for a layout
        try:
            place.add_entries(entries)
        except PackhorseError as error:
            return [(tag, error if tag in entries else outcome) for tag, outcome in rows]
        return rows

    def _copy(self, location: Location, there: Location, tag: str) -> Digest:
        source = self._wiring.index_place(location)
        found = source.root()
        if self._options.referrers:
            with self._lock_of(found.digest):
                if found.digest not in self._attached or there.kind is not LocationKind.REGISTRY:
                    digest = copy(self._wiring, location, there, self._options)
                    self._attached.add(found.digest)
                    return digest
        root = self._choose_document(source, found, location)
        if root is None:
            return copy(self._wiring, location, there, replace(self._options, referrers=False))
        if tag in self._existing_tags and self._wiring.digest_of(there.reference) == root.digest:
            return root.digest  # a registry accepts a name only for a complete image
        sink = self._wiring.index_place(there, writes=True)
        with self._lock_of(root.digest):
            if root.digest not in self._copied:
                documents = list(members(source, root))
                copy_documents(
                    source, sink, documents, root, meter=self._wiring.meter, name=f"copying {location}"
                )
                self._copied.add(root.digest)
        if there.kind is LocationKind.OCI:
            sink.write_document(root)
            with self._lock:
                self._kept[tag] = root
        else:
            sink.set_name(root)
        return root.digest

    def _choose_document(self, source: DocumentSource, root: Document, location: Location) -> Document | None:
        """Returns the document to copy unchanged; None if the image must be read or converted first."""
        if self._options.all_images:
            return root
        target = self._options.target or Target.host()
        manifest, indexes = find_manifest(root, target, source.member, where=str(location))
        if self._options.target and not indexes:
            return None
        is_converted = self._destination.kind is LocationKind.OCI and manifest.media_type not in OCI_ONLY
        return (
            None
            if is_converted or self._destination.kind not in (LocationKind.OCI, LocationKind.REGISTRY)
            else manifest
        )

    def _lock_of(self, digest: Digest) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(digest, threading.Lock())

    def _list_existing_tags(self) -> Iterator[str]:
        if self._destination.kind is LocationKind.REGISTRY:
            # A repository that does not exist yet has no list.
            with suppress(FormatError, NetworkError, NotFoundError):
                for location in list_images(self._wiring, self._destination.name):
                    yield location.reference.tag or ""


def _with_tag(place: Location, tag: str) -> Location:
    """Adds a tag to a place's name; InputError for a place that takes no tags."""
    if place.kind is LocationKind.OCI and not place.name:
        return replace(place, name=tag)
    if place.kind in (LocationKind.OCI, LocationKind.OCI_ARCHIVE, LocationKind.DOCKER_ARCHIVE):
        raise InputError(f"{place} takes no tags", fix="write docker://REGISTRY/REPOSITORY, or oci:DIR")
    if place.reference.tag or place.reference.digest:
        raise InputError(f"{place} is one image", fix="leave out its tag or digest")
    return replace(place, name=str(place.reference.with_tag(tag)))
