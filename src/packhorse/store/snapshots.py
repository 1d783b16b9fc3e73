"""Keeps layer directories between builds, as kept trees.

A kept tree lies at `kept/<owner>/<diff ID, 32 digits>/layers/<id>/<layer>/…`. It is a lower directory of the
overlay at `/layers`, and the source of the layer's tar if a command needs the bytes. It never changes. Names
are short because all lower directories of a mount share 4096 bytes. `layer_cache` adds and finds kept trees
for a build, `layers` and `roots` read them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.fs import overlay
from packhorse.fs.rooted import RootedTree
from packhorse.linux import userns
from packhorse.linux.userns import IdMap, MapMode
from packhorse.oci.place import Layer
from packhorse.oci.types import JsonNode
from packhorse.store import userns_jobs
from packhorse.store.leases import Lease, is_about, make_directory, make_error, map_errors, read, write
from packhorse.store.trash import remove, trash
from packhorse.store.tree_sync import TreeStamp, TreeSync
from packhorse.tar.writer import TarEntry, digest, stream
from packhorse.tar.writer import directory_entries as layer_entries

NAME_LENGTH = 32
"""The number of digits of the diff ID in the name of a kept tree."""

Owner = tuple[int, int]
"""The user and group that own the files of a kept tree, as ids of this machine."""


@dataclass(frozen=True, slots=True)
class LayerLocation:
    """Where a layer is in the sandbox: its directory (`/layers/<id>/<name>`), and the ids of its owner."""

    path: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A kept tree: its layer's diff ID, the length of the layer's tar in bytes, and the tree's directory."""

    location: LayerLocation
    diff_id: Digest
    size: int
    directory: Path

    @property
    def lower(self) -> Path:
        """The lower directory for an overlay at `/layers`."""
        return self.directory / "layers"

    @property
    def owner(self) -> Owner:
        """The owner of its files on this machine."""
        uid, _, gid = self.directory.parent.name.partition("-")
        return int(uid), int(gid)


class LayerSnapshots:
    """The kept trees of a store. One that was found or added stays as long as the store is open."""

    def __init__(self, lease: Lease, tree_sync: TreeSync) -> None:
        self._lease = lease
        self._tree_sync = tree_sync

    def owner_directory(self, owner: Owner) -> Path:
        """The directory with the kept trees of `owner`; makes it if it is missing."""
        path = self._lease.store / "kept" / f"{owner[0]}-{owner[1]}"
        with map_errors(path):
            make_directory(path)
        return path

    def find(self, diff_id: Digest, owner: Owner) -> Snapshot | None:
        """The kept tree of a layer; None if there is none with the right content.

        If a tree was made shortly before a crash of the machine, or copied with the store, it is read and
        hashed once, and removed if it has changed.
        """
        return self._find(self.owner_directory(owner) / diff_id.hex[:NAME_LENGTH], diff_id)

    def find_any(self, diff_id: Digest) -> Snapshot | None:
        """Finds a kept tree of any owner, for a caller that needs the layer's bytes."""
        with map_errors(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            tree = self._find(home / diff_id.hex[:NAME_LENGTH], diff_id)
            if tree is not None:
                return tree
        return None

    def remove_damaged(self, diff_id: Digest) -> None:
        """Reads the kept trees of a layer, of all owners, and removes those that have changed."""
        with map_errors(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            self.is_intact(home / diff_id.hex[:NAME_LENGTH])

    def is_intact(self, directory: Path) -> bool:
        """Whether the kept tree at `directory` is what its record says; removes it if not.

        True if there is none.
        """
        self._lease.pin(_object_path(directory))
        known = self._read_record(directory)
        if known is None:
            return True  # `find` finds none here either
        with self._lease.lock("kept", known[0].diff_id):
            sound = _has_right_content(known[0])
            if not sound:
                self._drop(directory)
        return sound

    def add(self, directory: Path, location: LayerLocation, owner: Owner) -> Snapshot:
        """Hashes the tree `directory`, and moves it to the kept trees.

        The tree has `layers/<id>/<name>`, and lies in `owner_directory(owner)`. If an equal tree is kept
        already, that one stays and the new one is removed. Raises TreeError if the tree cannot be a layer.
        """
        diff_id, size = digest(_make_tar(directory, location))
        target = self.owner_directory(owner) / diff_id.hex[:NAME_LENGTH]
        tree = Snapshot(location, diff_id, size, target)
        self._lease.pin(_object_path(target))
        with self._lease.lock("kept", diff_id):
            known = self._read_record(target)
            useless = directory
            if known is None or known[0].diff_id != diff_id or not known[1]:
                useless = self._lease.temporary_path(target.parent)
                with map_errors(target):
                    if os.path.lexists(target):
                        target.rename(useless)
                    directory.rename(target)
                self._write_record(tree)
        trash(useless, self._lease)
        return tree

    def chunks(self, tree: Snapshot) -> Iterator[bytes]:
        """Makes the layer's tar, and checks it against the diff ID while it streams.

        If the tree has changed, it removes the tree, and raises StoreError after the last chunk.
        """
        total = hashlib.sha256()
        try:
            for chunk in _make_tar(tree.directory, tree.location):
                total.update(chunk)
                yield chunk
        except TreeError as error:
            self._drop(tree.directory)
            raise _damage_error(tree) from error
        if total.hexdigest() != tree.diff_id.hex:
            self._drop(tree.directory)
            raise _damage_error(tree)

    def _find(self, directory: Path, diff_id: Digest) -> Snapshot | None:
        self._lease.pin(_object_path(directory))
        known = self._read_record(directory)
        if known is None or known[0].diff_id != diff_id:
            return None
        tree, trusted = known
        if trusted:
            return tree
        with self._lease.lock("kept", diff_id):
            if _has_right_content(tree):
                with suppress(StoreError):  # in a read-only store the tree is hashed each time
                    self._write_record(tree)
                return tree
            self._drop(directory)
        return None

    def _read_record(self, directory: Path) -> tuple[Snapshot, bool] | None:
        """The tree that a record describes, and whether the tree at `directory` is certainly this one."""
        fields = read(record_of(directory))
        if fields is None or not os.path.lexists(directory):
            return None
        node, stamp = JsonNode(fields, f"record of {directory}"), TreeStamp.parse(fields)
        try:
            inside = LayerLocation(node.text("path"), node.size("uid"), node.size("gid"))
            tree = Snapshot(inside, node.digest("diff_id"), node.size("size"), directory)
        except FormatError:
            return None
        return tree, stamp is not None and self._tree_sync.matches(directory, stamp)

    def _write_record(self, tree: Snapshot) -> None:
        """Writes the record of a tree at its final path. Raises StoreError."""
        with map_errors(tree.directory):
            stamp = self._tree_sync.stamp(tree.directory)
        fields = {
            "path": tree.location.path,
            "uid": tree.location.uid,
            "gid": tree.location.gid,
            "diff_id": str(tree.diff_id),
            "size": tree.size,
            **stamp.fields(),
        }
        write(self._lease, record_of(tree.directory), fields, durable=False)

    def _drop(self, directory: Path) -> None:
        with suppress(StoreError):  # in a read-only store the tree stays, and is skipped each time
            remove(record_of(directory), self._lease)
            remove(directory, self._lease)


def record_of(directory: Path) -> Path:
    """The record file beside a tree."""
    return directory.with_name(f"{directory.name}.json")


def _has_right_content(tree: Snapshot) -> bool:
    """Whether a tree has the diff ID in its record, and the right owner, which the diff ID does not cover."""
    try:
        return digest(_make_tar(tree.directory, tree.location))[0] == tree.diff_id and _has_right_owner(tree)
    except TreeError:
        return False


def _has_right_owner(tree: Snapshot) -> bool:
    with map_errors(tree.directory), overlay.open_directory(tree.directory) as above:
        entries = overlay.walk_statuses(above, tree.lower.name)
        return all((status.st_uid, status.st_gid) == tree.owner for status in entries)


def _make_tar(directory: Path, location: LayerLocation) -> Iterator[bytes]:
    """Makes a tree's layer. The entries of the parent directories do not come from the disk.

    Raises TreeError for a tree that is no layer, StoreError if this machine cannot read it.
    """
    top, parent = (location.path.rsplit("/", count)[0] for count in (2, 1))
    parents = [TarEntry.directory(name, uid=location.uid, gid=location.gid) for name in (top, parent)]
    try:
        with map_errors(directory), RootedTree.open_local(directory) as view:
            found = layer_entries(view, location.path, uid=location.uid, gid=location.gid, parents=parents)
            yield from stream(found)
    except TreeError as error:
        if isinstance(error.__cause__, OSError) and is_about(error.__cause__, directory):
            raise make_error(error.__cause__, directory) from error
        raise


def _object_path(directory: Path) -> str:
    """The path of a tree inside the store."""
    return str(Path(*directory.parts[-3:]))


def _damage_error(tree: Snapshot) -> StoreError:
    return StoreError(
        f"the kept layer {tree.location.path} was damaged",
        why=f"the files in {tree.directory} no longer have the digest {tree.diff_id}; packhorse removed them",
        fix="build the image again",
    )


def import_layer(
    lease: Lease, kept: LayerSnapshots, layer: Layer, inside: LayerLocation, idmap: IdMap
) -> bool:
    """Unpacks a layer, of a cache image for instance, and adds it to the kept trees.

    False if the tar is not exactly that of a layer at `inside`. Raises StoreError, and what reading the layer
    raises.
    """
    owner = idmap.to_outside(inside.uid, inside.gid)
    home = kept.owner_directory(owner)
    work, tree = lease.temporary_path(home), lease.temporary_path(home)
    try:
        with map_errors(work):
            make_directory(work)
            if idmap.mode is MapMode.ROOT:
                os.chown(work, *idmap.to_outside(0, 0))
        _unpack(lease, layer, work, idmap, inside)
        with map_errors(tree):
            (work / "tree").rename(tree)
        made = kept.add(tree, inside, owner)
        if made.diff_id != layer.diff_id:
            lease.note_unneeded({f"kept/{made.directory.name}"})
        return made.diff_id == layer.diff_id
    except (FormatError, TreeError):
        return False
    finally:
        for path in (work, tree):
            with suppress(StoreError, HostError):  # the next sweep will remove it
                remove(path, lease)


def _unpack(lease: Lease, layer: Layer, work: Path, idmap: IdMap, inside: LayerLocation) -> None:
    """Unpacks a layer to `tree` in the directory `work`, with the CNB user as the owner of everything."""
    owners = "yes" if idmap.mode is MapMode.ROOT else "no"
    # An ordinary user must own the tree: it could not move files of a subordinate id.
    ids = (
        idmap
        if idmap.mode is MapMode.ROOT
        else userns.choose_map(inside.uid, inside.gid, mode=MapMode.SINGLE)
    )
    with userns.make_namespace(ids) as namespace, overlay.open_directory(work) as parent:
        userns_jobs.run(
            ["unpack", str(parent), "tree", owners],
            where=work,
            namespace=namespace,
            lease=lease,
            directories=[parent],
            stdin=layer.tar(),
        )
