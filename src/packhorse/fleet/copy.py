"""Copies an image, all images of a name, or every tag of a repository: the use case behind `packhorse copy`.

With `--all-tags` several tags are copied at a time. An image that several tags name is copied once, and a tag
that the destination already has is left alone. Called by cli.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.base.threads import ThreadPool, thread_pool
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, PackhorseError
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
    """What is copied of a name: the image for `target` (None for this machine's), or with `all_images` all
    that it stands for, as they are; with `referrers` also what is attached to that. If `sparse`, no layer of
    its run image.
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
    """Copies what is under a name; the answer is what the destination identifies it by.

    Raises NotFoundError for a target that the name has no image for, and what the two places raise.
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
    """The layers that an image has of its run image; InputError where nobody knows which these are."""
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
    """Copies an image, or all of a name, byte for byte, then what is attached, and names it last."""
    from packhorse.oci.attached import copy_attachments
    from packhorse.oci.place import copy_documents, members

    start, end = wiring.index_place(source), wiring.index_place(destination, writes=True)
    root = start.root()
    if not options.all_images and (options.target or isinstance(root, Index)):
        manifest = _read(wiring, source, options.target).manifest
        assert manifest is not None  # places of several have manifests
        root = manifest
    documents = [*members(start, root), root]
    copy_documents(start, end, documents, meter=wiring.meter, name=f"copying {source}")
    count = copy_attachments(start, end, [document.digest for document in documents])
    end.set_name(root)
    say(f"{count or 'no'} referrer{'' if count == 1 else 's'} came along")
    return root.digest


_JOBS = 8  # tags at a time: nearly all of it is waiting for a registry
_AHEAD = 4  # tags for each thread that wait for their turn
_BATCH = 200  # tags that are entered into the index of a layout at once, which is written whole each time
_STOP_TIMEOUT = 3.0

TagRow = tuple[str, Digest | PackhorseError]


def copy_tags(
    wiring: Wiring, source: Location, destination: Location, options: CopyOptions
) -> Iterator[TagRow]:
    """What became of each tag of a repository, in their order; one that fails stops no other.

    Raises InputError for places that have no tags, and what the list of tags raises.
    """
    if source.kind is not LocationKind.REGISTRY:
        raise InputError(f"{source} has no list of tags", fix="write docker://REGISTRY/REPOSITORY")
    if source.reference.tag or source.reference.digest:
        raise InputError(f"{source} is one image", fix="leave out its tag or digest")
    _with_tag(destination, "any")
    copying = _TagCopier(wiring, destination, options)
    jobs = _JOBS if destination.kind in (LocationKind.OCI, LocationKind.REGISTRY) else 1
    with thread_pool(jobs, "tag", timeout=_STOP_TIMEOUT) as workers:
        rows = _in_order(workers, copying, list_images(wiring, source.name))
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
        except PackhorseError:  # the list cannot be read to its end, and what was read of it is copied
            yield from copying.enter_names(batch)
            raise
        yield from copying.enter_names(batch)


def _in_order(workers: ThreadPool, copying: _TagCopier, locations: Iterable[Location]) -> Iterator[TagRow]:
    waiting: deque[Future[TagRow]] = deque()
    try:
        for location in locations:
            waiting.append(workers.submit(copying.copy_tag, location))
            if len(waiting) > _AHEAD * _JOBS:
                yield waiting.popleft().result()
    except PackhorseError:  # of the list: what it has named so far is copied all the same
        while waiting:
            yield waiting.popleft().result()
        raise
    while waiting:
        yield waiting.popleft().result()


class _TagCopier:
    """The copying of one repository, by several threads."""

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
        """Copies one tag: what became of it."""
        tag = location.reference.tag or ""
        try:
            return tag, self._copy(location, _with_tag(self._destination, tag), tag)
        except PackhorseError as error:
            return tag, error

    def enter_names(self, rows: list[TagRow]) -> list[TagRow]:
        """Names in a layout what is kept there; rows of what could not be are those of the error."""
        with self._lock:
            kept = {tag: self._kept.pop(tag) for tag, _ in rows if tag in self._kept}
        entries = {tag: document.descriptor for tag, document in kept.items()}
        place = self._wiring.index_place(self._destination, writes=True)
        assert isinstance(place, LayoutName)  # nothing else is written so
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
            return root.digest  # what a registry has under a name is whole
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
        """What is copied as it is; None where an image has to be looked at, or made anew, first."""
        if self._options.all_images:
            return root
        target = self._options.target or Target.host()
        manifest, indexes = find_manifest(root, target, source.member, where=str(location))
        if self._options.target and not indexes:
            return None
        anew = self._destination.kind is LocationKind.OCI and manifest.media_type not in OCI_ONLY
        return (
            None
            if anew or self._destination.kind not in (LocationKind.OCI, LocationKind.REGISTRY)
            else manifest
        )

    def _lock_of(self, digest: Digest) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(digest, threading.Lock())

    def _list_existing_tags(self) -> Iterator[str]:
        if self._destination.kind is LocationKind.REGISTRY:
            # It may not be there yet, and has no list then.
            with suppress(FormatError, NetworkError, NotFoundError):
                for location in list_images(self._wiring, self._destination.name):
                    yield location.reference.tag or ""


def _with_tag(place: Location, tag: str) -> Location:
    """A place with a tag for its name."""
    if place.kind is LocationKind.OCI and not place.name:
        return replace(place, name=tag)
    if place.kind in (LocationKind.OCI, LocationKind.OCI_ARCHIVE, LocationKind.DOCKER_ARCHIVE):
        raise InputError(f"{place} takes no tags", fix="write docker://REGISTRY/REPOSITORY, or oci:DIR")
    if place.reference.tag or place.reference.digest:
        raise InputError(f"{place} is one image", fix="leave out its tag or digest")
    return replace(place, name=str(place.reference.with_tag(tag)))
