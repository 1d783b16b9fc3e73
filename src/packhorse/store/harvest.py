"""③ What one build's layers become: kept trees, and the record of what the app's next build may restore.

Called by overlay and copies, which show layers to buildpacks and tell what was done to them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path

from packhorse.base.dataclass import dataclass, replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.image.view import Layer
from packhorse.layers.pieces import FormerSlice, Piece
from packhorse.store import gc, pieces, record, removal
from packhorse.store.fault import map_errors
from packhorse.store.kept import LayerLocation, LayerSnapshots, Owner, Snapshot
from packhorse.store.lease import Lease, make_directory

TARGET = "/layers"


@dataclass(frozen=True, slots=True)
class CachedApp:
    """Whose layers they are: `name` is any text that is the same at the next build.

    `family` is what apps have in common that may begin with each other's layers; `cache` is the record file
    of the app, `source` that of the app to begin with, itself or another.
    """

    name: str
    family: str
    cache: Path
    source: Path


@dataclass(frozen=True, slots=True)
class LayerCounters:
    """What the layers of a build have cost so far.

    `untouched` layers were neither read nor hashed; `same` ones were written to, and read to learn that it
    made no difference. `hashed` is in bytes of tar; `linked` counts entries that a partly changed layer
    shares with what it was, `copied` those that were copied for buildpacks.
    """

    untouched: int = 0
    same: int = 0
    changed: int = 0
    hashed: int = 0
    linked: int = 0
    copied: int = 0


class LayerCacheWriter:
    """The layers that one build of an app makes, whose entries belong to `uid`:`gid` inside and `owner`
    outside. Safe from several threads at once.
    """

    def __init__(
        self, lease: Lease, snapshots: LayerSnapshots, app: CachedApp, *, uid: int, gid: int, owner: Owner
    ) -> None:
        self._lease = lease
        self._snapshots = snapshots
        self._app = app
        self._uid, self._gid = uid, gid
        self.owner = owner
        self._counters = LayerCounters()
        self._slices: dict[str, object] = {}
        self._lock = threading.Lock()

    @property
    def counters(self) -> LayerCounters:
        """What was done so far, for people to read."""
        with self._lock:
            return self._counters

    def count(
        self,
        *,
        untouched: int = 0,
        same: int = 0,
        changed: int = 0,
        hashed: int = 0,
        linked: int = 0,
        copied: int = 0,
    ) -> None:
        """Adds to the counters."""
        with self._lock:
            now = self._counters
            self._counters = replace(
                now,
                untouched=now.untouched + untouched,
                same=now.same + same,
                changed=now.changed + changed,
                hashed=now.hashed + hashed,
                linked=now.linked + linked,
                copied=now.copied + copied,
            )

    @property
    def last_build_time(self) -> float:
        """When the build that this one begins with was recorded, in seconds since 1970; 0 for none."""
        source = self._app.source
        with map_errors(source):
            return source.stat().st_mtime if source.exists() else 0

    def read(self) -> bytes:
        """The metadata of the build that this one begins with, b"" when there is none."""
        metadata = (record.read(self._app.source) or {}).get("metadata", "")
        return str(metadata).encode("utf-8", "surrogateescape")

    def slices(self, key: str) -> tuple[Digest, ...]:
        """What `remember_slices` was told of the application `key` by the build that this one begins with."""
        known, diff_ids = self._read_slices()
        return diff_ids if known == key else ()

    def remember_slices(self, key: str, slices: Sequence[Digest]) -> None:
        """Has `commit` record the diff IDs that the application `key`, empty for any, has become."""
        self._slices = {"key": key, "diff_ids": [str(diff_id) for diff_id in slices]}

    def former_slice(self, terms: str) -> AbstractContextManager[FormerSlice | None]:
        """The last slice of the build that this one begins with, if it was packed with the same `terms`; see
        `pieces.open_former`.
        """
        diff_ids = self._read_slices()[1]
        return pieces.open_former(self._lease, diff_ids[-1], terms) if diff_ids else nullcontext(None)

    def remember_pieces(self, diff_id: Digest, terms: str, new_pieces: Mapping[str, Piece]) -> None:
        """Keeps where in a slice of this build the directories of the application are."""
        pieces.write(self._lease, diff_id, terms, new_pieces)

    def _read_slices(self) -> tuple[str, tuple[Digest, ...]]:
        known = (record.read(self._app.source) or {}).get("slices")
        if isinstance(known, dict):
            with suppress(FormatError, TypeError, KeyError):  # damage
                return str(known["key"]), tuple(Digest.parse(str(text)) for text in known["diff_ids"])
        return "", ()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        fields = {
            "app": self._app.name,
            "family": self._app.family,
            "metadata": metadata.decode("utf-8", "surrogateescape"),
            "layers": {path: str(diff_id) for path, diff_id in sorted(layers.items())},
            "slices": self._slices,
        }
        before = gc.needed_for_next(record.read(self._app.cache))
        record.write(self._lease, self._app.cache, fields)
        self._lease.note_unneeded(before - gc.needed_for_next(fields))

    def find_snapshot(self, path: str, diff_id: Digest) -> Snapshot | None:
        """The kept tree of the layer at `path`, with this build's owner; None when it is not kept here."""
        tree = self._snapshots.find(diff_id, self.owner)
        return (
            tree if tree is not None and tree.location == LayerLocation(path, self._uid, self._gid) else None
        )

    def add_snapshot(self, path: str, fill: Callable[[Path], int]) -> Snapshot:
        """Keeps, as the layer at `path`, what `fill` puts into the directory it is given for it.

        That directory is where those of the layer's buildpack are in a kept tree; `fill` answers how many
        entries in it are linked.
        """
        buildpack, _ = split_layer_path(path)
        directory = self._lease.temporary(self._snapshots.owner_directory(self.owner))
        parent = directory / "layers" / buildpack
        try:
            with map_errors(directory):
                for each in (directory, parent.parent, parent):
                    self.make_directory(each)
                linked = fill(parent)
            tree = self._snapshots.add(directory, LayerLocation(path, self._uid, self._gid), self.owner)
        except BaseException:
            with suppress(StoreError, HostError):
                removal.remove(directory, self._lease)
            raise
        self.count(changed=1, hashed=tree.size, linked=linked)
        return tree

    def layer(self, tree: Snapshot) -> Layer:
        """A kept tree as a layer of an image."""
        return Layer(partial(self._snapshots.chunks, tree), tree.diff_id, tree.size)

    def make_directory(self, path: Path) -> None:
        """Makes a directory that belongs to the CNB user, whatever the umask; raises OSError."""
        make_directory(path)
        os.chown(path, *self.owner)


def split_layer_path(path: str) -> tuple[str, str]:
    """The buildpack's directory and the layer's name of `/layers/<id>/<name>`."""
    parts = path.split("/")
    if len(parts) != 4 or parts[:2] != ["", "layers"] or {"", ".", ".."} & set(parts[2:]):
        raise TreeError(f"{path!r} is not a layer's directory", why="those are /layers/<buildpack>/<layer>")
    return parts[2], parts[3]
