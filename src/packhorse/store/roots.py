"""Makes the root file system of an image, as a directory that a sandbox can mount.

It unpacks each layer once for each map of ids, into `trees/<map>/<diff ID>`, and merges the layers of an
image by hard links into one root, `roots/<map>/<chain ID>`. The options of one mount have room for only about
35 directories, and a builder may have 150 layers. The trees serve only as lower directories; no step writes
to them. `userns_worker` does the work inside the user namespace. `Store.root` calls this module.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from packhorse.base.digest import Digest
from packhorse.base.progress import UNWATCHED
from packhorse.base.threads import ThreadPool, thread_pool
from packhorse.errors import FormatError, HostError, StoreError
from packhorse.fs import overlay
from packhorse.linux import userns
from packhorse.linux.userns import IdMap, MapMode, Namespace
from packhorse.store import userns_jobs
from packhorse.store.layers import LayerStore
from packhorse.store.leases import Lease, make_directory, map_errors, open_directory, read, write
from packhorse.store.snapshots import LayerSnapshots
from packhorse.store.trash import remove
from packhorse.store.tree_sync import TreeStamp, TreeSync

_PROCESSES = 2  # unpacking waits for the disk as much as for the processor

_LONGEST = 880  # the most bytes of the store's path in mount options, in which it stands four times

_HIDING = ("whiteouts", "opaque", "implied")


class Trees:
    """The trees of a store. One that was found or made stays as long as the store is open."""

    def __init__(
        self, lease: Lease, tree_sync: TreeSync, layers: LayerStore, snapshots: LayerSnapshots
    ) -> None:
        self._lease = lease
        self._tree_sync = tree_sync
        self._layers = layers
        self._snapshots = snapshots
        self.meter = UNWATCHED

    def root(self, diff_ids: Sequence[Digest], idmap: IdMap) -> Path:
        """The root file system of an image with these layers, with owners mapped by `idmap`.

        It makes the tree if it is missing. Do not write to it. Raises StoreError, FormatError for an invalid
        layer, HostError if it can make no user namespace.
        """
        if not diff_ids:
            raise StoreError("an image without layers has no root file system")
        length = overlay.option_length(bytes(self._lease.store))
        if length > _LONGEST:
            raise StoreError(
                f"the path of the store is too long: {self._lease.store}",
                why=f"it takes {length} bytes of the options of a mount, and at most {_LONGEST} fit",
                fix="move the store to a shorter path (PACKHORSE_HOME)",
            )
        # The tree of a single layer is a root already: there are no lower entries for it to hide.
        home = "roots" if len(diff_ids) > 1 else "trees"
        chain_id = chain_ids(diff_ids)[-1]
        path = self._map_directory(home, idmap) / chain_id.hex
        if self._find(path) is not None:
            return path
        # As root inside, because buildpacks may have made files whose mode denies their owner access.
        with userns.make_namespace(userns.map_as_root(idmap)) as namespace:
            records = self._make_layers(diff_ids, idmap, namespace)
            if home == "roots":
                layers = self._map_directory("trees", idmap)
                order = [
                    {"name": item.hex, **{key: records[item][key] for key in _HIDING}} for item in diff_ids
                ]
                with self.meter.task(f"merging {len(diff_ids)} layers"):
                    self._find_or_make(path, chain_id, lambda new: self._merge(layers, order, new, namespace))
        return path

    def _make_layers(
        self, diff_ids: Sequence[Digest], idmap: IdMap, namespace: Namespace
    ) -> dict[Digest, dict[str, Any]]:
        """Makes the missing trees of these layers; returns the records of all."""
        home = self._map_directory("trees", idmap)
        distinct = list(dict.fromkeys(diff_ids))
        with (
            self.meter.task("unpacking", unit="layers", total=len(distinct)) as task,
            _UnpackerPool(home, namespace, self._lease, owners=idmap.mode is not MapMode.SINGLE) as unpackers,
            thread_pool(_PROCESSES, "unpack", timeout=10) as workers,
        ):

            def layer(diff_id: Digest) -> dict[str, Any]:
                found = self._find_or_make(
                    home / diff_id.hex,
                    diff_id,
                    lambda new: self._make_layer(diff_id, new, idmap, namespace, workers, unpackers),
                )
                task.add(1)
                return found

            return dict(zip(distinct, workers.map(layer, distinct), strict=True))

    def _make_layer(
        self,
        diff_id: Digest,
        new: Path,
        idmap: IdMap,
        namespace: Namespace,
        workers: ThreadPool,
        unpackers: _UnpackerPool,
    ) -> dict[str, Any]:
        """Makes the tree `new`, by hard links to a kept tree with the same owner or from the layer's tar."""
        kept = self._snapshots.find_any(diff_id)
        inside = (
            kept.location if kept is not None and idmap.has(kept.location.uid, kept.location.gid) else None
        )
        if kept is not None and inside and kept.owner == idmap.to_outside(inside.uid, inside.gid):
            own: dict[str, Any] = {"whiteouts": [], "opaque": [], "implied": [""]}
            order = [{"name": kept.directory.name, **own}]
            try:
                self._merge(kept.directory.parent, order, new, namespace)
                return own
            except FormatError:  # a file has the name of a whiteout, and becomes one in the tar
                remove(new, self._lease)
        layer = self._layers.find(diff_id)
        if layer is None:
            raise StoreError(
                f"the layer {diff_id} is not in the store",
                fix="build or pull its image again",
            )
        with unpackers.borrow() as unpacker:
            try:
                answer = unpacker.unpack(new.name, workers.cancellable(layer.tar()))
            except FormatError as error:
                raise FormatError(f"the layer {diff_id} cannot be unpacked", why=str(error)) from error
        return {key: answer[key] for key in _HIDING}

    def _merge(
        self, layers: Path, order: Sequence[dict[str, Any]], new: Path, namespace: Namespace
    ) -> dict[str, Any]:
        """Makes the tree `new` of trees in the directory `layers`; `order` has them, lowest first."""
        with open_directory(layers) as source, open_directory(new.parent) as parent:
            return userns_jobs.run(
                ["merge", str(source), str(parent), new.name],
                where=new.parent,
                namespace=namespace,
                lease=self._lease,
                directories=[source, parent],
                stdin=[json.dumps(order).encode()],
            )

    def _find_or_make(
        self, path: Path, digest: Digest, make: Callable[[Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """The record of the tree at `path`. If there is none, `make` makes the tree at a temporary path."""
        known = self._find(path)
        if known is not None:
            return known
        with self._lease.lock("tree", digest):
            known = self._find(path)
            if known is not None:
                return known
            remove(path, self._lease)
            new = self._lease.temporary_path(path.parent)
            try:
                fields = make(new)
                with map_errors(path):
                    new.rename(path)
                    fields |= self._tree_sync.stamp(path).fields()
                write(self._lease, _record_of(path), fields, durable=False)
            except BaseException:
                with suppress(StoreError, HostError):  # the next sweep will remove it
                    remove(new, self._lease)
                raise
        return fields

    def _find(self, path: Path) -> dict[str, Any] | None:
        """The record of the tree at `path`; None if there is no tree that can be trusted."""
        self._lease.pin(str(path.relative_to(self._lease.store)))
        fields = read(_record_of(path))
        stamp = None if fields is None else TreeStamp.parse(fields)
        return fields if stamp is not None and self._tree_sync.matches(path, stamp) else None

    def _map_directory(self, kind: str, idmap: IdMap) -> Path:
        """The directory for the trees of one map of ids; the namespace's root may write to it."""
        path = self._lease.store / kind / idmap.key
        with map_errors(path):
            if not path.exists():
                make_directory(path)
                own = (os.geteuid(), os.getegid())
                os.chown(path, *(idmap.to_outside(0, 0) if idmap.mode is MapMode.ROOT else own))
        return path


class _UnpackerPool:
    """Starts and lends the children that unpack the layers of one image into the directory `home`."""

    def __init__(self, home: Path, namespace: Namespace, lease: Lease, *, owners: bool) -> None:
        self._start = partial(
            userns_jobs.Unpacker,
            home,
            namespace=namespace,
            lease=lease,
            owners=owners,
        )
        self._all: list[userns_jobs.Unpacker] = []
        self._idle: list[userns_jobs.Unpacker] = []

    @contextmanager
    def borrow(self) -> Iterator[userns_jobs.Unpacker]:
        """Lends a child to a thread. After an error it is ended and not lent again."""
        try:
            unpacker = self._idle.pop()
        except IndexError:
            unpacker = self._start()
            self._all.append(unpacker)
        try:
            yield unpacker
        except BaseException:
            unpacker.close()
            raise
        self._idle.append(unpacker)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for unpacker in self._all:
            unpacker.close()


def chain_ids(diff_ids: Sequence[Digest]) -> list[Digest]:
    """The chain IDs of an image's layers, lowest first (image-spec, config.md "Layer ChainID")."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def _record_of(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.json")
