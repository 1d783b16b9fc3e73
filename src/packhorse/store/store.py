"""The store: one directory of one user, where images, layers and file trees rest.

::

    oci-layout  index.json  blobs/sha256/    an OCI layout of the images that are whole (blobs, images)
    images.json                              every name (images)
    layers/<diff ID>.json                    what is known of a layer (facts)
    trees/<map>/  roots/<map>/               unpacked layers, and merged root file systems (trees)
    kept/<owner>/  caches/<app>.json         layers for the next build, and whose they are (kept, overlay)
    leases/  scratch/  gate  locks/          who uses what, and what is not finished (lease)

`Store` only holds the parts together; `platform.wiring` opens it. Whatever is killed, at any point, leaves a
store that the next call can use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from packhorse.base.digest import Digest
from packhorse.base.userns import IdMap
from packhorse.errors import StoreError
from packhorse.image.model import Descriptor, Index
from packhorse.image.view import Image
from packhorse.store import gc, record, removal, stamp
from packhorse.store.blobs import Blobs
from packhorse.store.facts import Facts
from packhorse.store.fault import faults
from packhorse.store.gc import Freed
from packhorse.store.images import Images, Record, Removed
from packhorse.store.kept import Kept
from packhorse.store.lease import Lease
from packhorse.store.overlay import LayersOverlay
from packhorse.store.place import StorePlace
from packhorse.store.shelf import Shelf
from packhorse.store.trees import Trees

VERSION = "1"

_DIRECTORIES = (
    "blobs",
    "blobs/sha256",
    "layers",
    "trees",
    "roots",
    "kept",
    "caches",
    "leases",
    "scratch",
    "locks",
)
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class Store:
    """An open store. What is found or made through it stays until it is closed, whatever `gc` does."""

    def __init__(self, path: Path, lease: Lease) -> None:
        self.path = path
        self._lease = lease
        self._blobs = Blobs(lease)
        self._facts = Facts(lease)
        self._kept = Kept(lease)
        self._images = Images(path)
        self._left: set[Path] = set()
        self._shelf = Shelf(lease, self._blobs, self._facts, self._kept)
        self._trees = Trees(lease, self._shelf, self._kept)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the store at `path`, and makes it when there is none.

        Raises StoreError when it belongs to another user, has another version, or cannot be written.
        """
        path = path.absolute()
        _prepare(path)
        return cls(path, Lease.take(path))

    def close(self) -> None:
        """Lets go of everything; unfinished things are removed by the next `gc`."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def place(self, name: str) -> StorePlace:
        """The image called `name` (for reading also an image ID), as a `Place`."""
        return StorePlace(name, images=self._images, blobs=self._blobs, shelf=self._shelf)

    def images(self) -> tuple[Record, ...]:
        """Every image by name."""
        return self._images.all()

    def size(self, image: Record) -> int:
        """How long the layers of an image are, in bytes; compressed if a tar was never read."""
        total = 0
        for diff_id in image.layers:
            fact = self._facts.of(diff_id)
            total += fact.size or (fact.blob.size if fact.blob else 0)
        return total

    def find(self, text: str) -> Record:
        """The image with a name or with the beginning of an ID; raises NotFoundError, InputError."""
        return self._images.find(text)

    def remove(self, text: str, *, force: bool = False) -> Removed:
        """Takes a name away, or all of an image given by ID, as `docker rmi` does; `gc` frees the space."""
        return self._images.remove(text, force=force)

    def compressed(self, diff_id: Digest) -> Descriptor | None:
        """What a layer is compressed to, where that is known; its blob need not be here."""
        return self._facts.of(diff_id).blob

    def remember(self, diff_id: Digest, compressed: Descriptor) -> None:
        """Notes what a layer is compressed to, for instance after a push."""
        self._facts.learn(diff_id, blob=compressed)

    def root(self, image: Image, idmap: IdMap) -> Path:
        """The root file system of an image in the store, its ids mapped by `idmap`: read-only for everybody.

        Unpacked and merged the first time. Raises StoreError, FormatError, HostError.
        """
        return self._trees.root(image.config.diff_ids, idmap)

    def layers(self, app: str, idmap: IdMap, *, uid: int, gid: int, scratch: Path) -> LayersOverlay:
        """The layers of one build of `app` (any text that is the same at its next build), as a LayerCache.

        `uid` and `gid` are the CNB user's; `scratch` is a directory made by `scratch`.
        """
        directory = scratch / "overlay"
        with faults(directory):
            record.make_directory(directory)
        return LayersOverlay(
            self._lease,
            self._kept,
            cache=self._cache(app),
            scratch=directory,
            uid=uid,
            gid=gid,
            owner=idmap.outside(uid, gid),
        )

    def forget(self, app: str) -> bool:
        """Forgets what the next build of `app` could restore; False when there was nothing."""
        path = self._cache(app)
        with faults(path):
            there = path.exists()
            path.unlink(missing_ok=True)
        return there

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for one build on the store's file system, removed afterwards whoever its files belong
        to, unless it was given to `leave`.
        """
        path = self._lease.temporary()
        with faults(path):
            record.make_directory(path)
        try:
            yield path
        finally:
            if path not in self._left:
                removal.remove(path)

    def leave(self, scratch: Path) -> None:
        """Lets a scratch directory stay, for a person to look at, until the next `sweep` or `gc`."""
        self._left.add(scratch)

    def sweep(self) -> None:
        """Removes what commands that are over have left in `scratch`, killed or on purpose."""
        gc.sweep(self._lease)

    def gc(self) -> Freed:
        """Removes what no image, no cache and no running command needs; safe beside running builds."""
        return gc.collect(self._lease)

    def settle(self) -> None:
        """Waits until all trees are on the disk (seconds after a large build), so that a crash cannot cost
        them.
        """
        stamp.settle(self.path)

    def _cache(self, app: str) -> Path:
        return self.path / "caches" / f"{Digest.of(app.encode()).hex[:32]}.json"


def _prepare(path: Path) -> None:
    """Makes the store if there is none, and makes sure that it is this user's and of this version."""
    with faults(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = path.stat().st_uid
        if owner != os.geteuid():
            raise StoreError(
                f"the store at {path} belongs to another user",
                why=f"its owner is user {owner}, this is user {os.geteuid()}",
                fix="choose another place for the store, or run as that user",
            )
        version = path / "version"
        if not version.exists():
            _make(path)
        found = version.read_text().strip()
    if found != VERSION:
        raise StoreError(
            f"the store at {path} has another version",
            why=f"it is version {found[:20]!r}, this packhorse knows {VERSION}",
            fix="use the packhorse that made it, or choose another place for the store",
        )


def _make(path: Path) -> None:
    """Makes what a store begins with; what was begun and not finished is finished."""
    ours = {name.partition("/")[0] for name in _DIRECTORIES} | {"oci-layout", "index.json", "version", "gate"}
    others = [
        entry.name for entry in path.iterdir() if entry.name not in ours and not entry.name.endswith("~")
    ]
    if others:
        raise StoreError(
            f"{path} is not a store",
            why=f"it has no version file, and other things in it: {', '.join(sorted(others)[:5])}",
            fix="choose an empty or a new directory for the store",
        )
    path.chmod(0o700)
    for name in _DIRECTORIES:
        record.make_directory(path / name)
    record.write_bytes(path / "oci-layout", _LAYOUT)
    record.write_bytes(path / "index.json", Index.of(()).raw)
    # The version comes last: with it the store is whole.
    record.write_bytes(path / "version", f"{VERSION}\n".encode())
