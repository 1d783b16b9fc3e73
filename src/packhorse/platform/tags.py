"""The use case behind `packhorse copy --all-tags`: every tag of a repository, several at a time.

What several tags stand for is brought once, and what the destination has under a tag is left alone. Called by
cli.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress

from packhorse.base.crew import Crew, crew
from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.base.target import Target
from packhorse.errors import FormatError, InputError, NetworkError, NotFoundError, PackhorseError
from packhorse.image.layout import OCI_ONLY
from packhorse.image.layout_several import LayoutName
from packhorse.image.model import Document, find_manifest
from packhorse.image.reference import Kind, Location
from packhorse.image.several import Source, bring, members
from packhorse.platform.copies import Wanted, copy
from packhorse.platform.selection import listed
from packhorse.platform.wiring import Wiring

_JOBS = 8  # tags at a time: nearly all of it is waiting for a registry
_AHEAD = 4  # tags for each thread that wait for their turn
_BATCH = 200  # tags that are entered into the index of a layout at once, which is written whole each time
_PATIENCE = 3.0

Row = tuple[str, Digest | PackhorseError]


def copy_tags(wiring: Wiring, source: Location, destination: Location, wanted: Wanted) -> Iterator[Row]:
    """What became of each tag of a repository, in their order; one that fails stops no other.

    Raises InputError for places that have no tags, and what the list of tags raises.
    """
    if source.kind is not Kind.REGISTRY:
        raise InputError(f"{source} has no list of tags", fix="write docker://REGISTRY/REPOSITORY")
    if source.reference.tag or source.reference.digest:
        raise InputError(f"{source} is one image", fix="leave out its tag or digest")
    _with_tag(destination, "any")
    copying = _Copying(wiring, destination, wanted)
    jobs = _JOBS if destination.kind in (Kind.OCI, Kind.REGISTRY) else 1
    with crew(jobs, "tag", patience=_PATIENCE) as workers:
        rows = _in_order(workers, copying, listed(wiring, source.name))
        if destination.kind is not Kind.OCI:
            yield from rows
            return
        batch: list[Row] = []
        try:
            for row in rows:
                batch.append(row)
                if len(batch) == _BATCH:
                    full, batch = batch, []
                    yield from copying.entered(full)
        except PackhorseError:  # the list cannot be read to its end, and what was read of it is copied
            yield from copying.entered(batch)
            raise
        yield from copying.entered(batch)


def _in_order(workers: Crew, copying: _Copying, locations: Iterable[Location]) -> Iterator[Row]:
    waiting: deque[Future[Row]] = deque()
    try:
        for location in locations:
            waiting.append(workers.submit(copying.row, location))
            if len(waiting) > _AHEAD * _JOBS:
                yield waiting.popleft().result()
    except PackhorseError:  # of the list: what it has named so far is copied all the same
        while waiting:
            yield waiting.popleft().result()
        raise
    while waiting:
        yield waiting.popleft().result()


class _Copying:
    """The copying of one repository, by several threads."""

    def __init__(self, wiring: Wiring, destination: Location, wanted: Wanted) -> None:
        self._wiring = wiring
        self._destination = destination
        self._wanted = wanted
        self._there = frozenset(self._tags_there())
        self._brought: set[Digest] = set()
        self._attached: set[Digest] = set()
        self._turns: dict[Digest, threading.Lock] = {}
        self._kept: dict[str, Document] = {}
        self._lock = threading.Lock()

    def row(self, location: Location) -> Row:
        """Copies one tag: what became of it."""
        tag = location.reference.tag or ""
        try:
            return tag, self._copy(location, _with_tag(self._destination, tag), tag)
        except PackhorseError as error:
            return tag, error

    def entered(self, rows: list[Row]) -> list[Row]:
        """Names in a layout what is kept there; rows of what could not be are those of the error."""
        with self._lock:
            kept = {tag: self._kept.pop(tag) for tag, _ in rows if tag in self._kept}
        entries = {tag: document.descriptor for tag, document in kept.items()}
        place = self._wiring.several(self._destination, writes=True)
        assert isinstance(place, LayoutName)  # nothing else is written so
        try:
            place.enter(entries)
        except PackhorseError as error:
            return [(tag, error if tag in entries else outcome) for tag, outcome in rows]
        return rows

    def _copy(self, location: Location, there: Location, tag: str) -> Digest:
        source = self._wiring.several(location)
        found = source.root()
        if self._wanted.referrers:
            with self._turn(found.digest):
                if found.digest not in self._attached or there.kind is not Kind.REGISTRY:
                    digest = copy(self._wiring, location, there, self._wanted)
                    self._attached.add(found.digest)
                    return digest
        root = self._chosen(source, found, location)
        if root is None:
            return copy(self._wiring, location, there, replace(self._wanted, referrers=False))
        if tag in self._there and self._wiring.digest_of(there.reference) == root.digest:
            return root.digest  # what a registry has under a name is whole
        sink = self._wiring.several(there, writes=True)
        with self._turn(root.digest):
            if root.digest not in self._brought:
                documents = list(members(source, root))
                bring(source, sink, documents, root, meter=self._wiring.meter, name=f"copying {location}")
                self._brought.add(root.digest)
        if there.kind is Kind.OCI:
            sink.put(root)
            with self._lock:
                self._kept[tag] = root
        else:
            sink.name(root)
        return root.digest

    def _chosen(self, source: Source, root: Document, location: Location) -> Document | None:
        """What is copied as it is; None where an image has to be looked at, or made anew, first."""
        if self._wanted.every:
            return root
        target = self._wanted.target or Target.host()
        manifest, indexes = find_manifest(root, target, source.member, where=str(location))
        if self._wanted.target and not indexes:
            return None
        anew = self._destination.kind is Kind.OCI and manifest.media_type not in OCI_ONLY
        return None if anew or self._destination.kind not in (Kind.OCI, Kind.REGISTRY) else manifest

    def _turn(self, digest: Digest) -> threading.Lock:
        with self._lock:
            return self._turns.setdefault(digest, threading.Lock())

    def _tags_there(self) -> Iterator[str]:
        if self._destination.kind is Kind.REGISTRY:
            # It may not be there yet, and has no list then.
            with suppress(FormatError, NetworkError, NotFoundError):
                for location in listed(self._wiring, self._destination.name):
                    yield location.reference.tag or ""


def _with_tag(place: Location, tag: str) -> Location:
    """A place with a tag for its name."""
    if place.kind is Kind.OCI and not place.name:
        return replace(place, name=tag)
    if place.kind in (Kind.OCI, Kind.OCI_ARCHIVE, Kind.DOCKER_ARCHIVE):
        raise InputError(f"{place} takes no tags", fix="write docker://REGISTRY/REPOSITORY, or oci:DIR")
    if place.reference.tag or place.reference.digest:
        raise InputError(f"{place} is one image", fix="leave out its tag or digest")
    return replace(place, name=str(place.reference.with_tag(tag)))
