"""Keeps layer directories between builds, and knows which trees of the store are whole on the disk.

A kept tree lies at `kept/<owner>/<diff ID, 32 digits>/layers/<id>/<layer>/…`. It is a lower directory of the
overlay at `/layers`, and the source of the layer's tar when a command needs the bytes. It is never changed.
Names are short because all lower directories of a mount share 4096 bytes.

packhorse does not fsync(2) the files of a tree: 43,000 calls would take longer than a build. So it trusts a
tree during the run of the machine (boot ID) that made it. After a restart the files may exist and be empty;
then it trusts the tree only if a syncfs(2) came after it. `settled.json` records the time of the last
syncfs(2) for each boot ID. The file `unsettled` exists while some tree has not been synced.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.fs import overlay
from packhorse.fs.rooted import RootedTree
from packhorse.linux import userns
from packhorse.linux.processes import accept_signals, detach, python_command, start
from packhorse.linux.syscalls import sync_filesystem
from packhorse.linux.userns import IdMap, MapMode
from packhorse.oci.place import Layer
from packhorse.oci.types import JsonNode
from packhorse.store import userns_jobs
from packhorse.store.leases import (
    Lease,
    is_about,
    make_directory,
    make_error,
    map_errors,
    open_directory,
    read,
    write,
)
from packhorse.store.trash import remove, trash
from packhorse.tar.writer import TarEntry, digest, stream
from packhorse.tar.writer import directory_entries as layer_entries

_BOOTS = 100  # what is remembered; trees from before are looked at anew
_WRITEBACK = 35.0  # seconds after which the kernel has written by itself nearly all that a command left to it


@dataclass(frozen=True, slots=True)
class TreeStamp:
    """What tells a tree from every other: inode and change time (ns) of its directory, which no copy has.

    `boot` is the run of the machine in which it was made, `made` when that was, in ns since its start.
    """

    inode: int
    changed: int
    boot: str
    made: int

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self | None:
        """Reads a stamp out of a record; None when there is none."""
        inode, changed, boot, made = (fields.get(name) for name in cls.__slots__)
        if isinstance(inode, int) and isinstance(changed, int) and isinstance(made, int):
            return cls(inode, changed, boot, made) if isinstance(boot, str) else None
        return None

    def fields(self) -> dict[str, Any]:
        """What a record has of this stamp."""
        return {name: getattr(self, name) for name in self.__slots__}


class Disk:
    """What is known of a store's trees and the disk below them."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._marker = lease.store / "unsettled"
        self._notes = lease.store / "settled.json"

    def stamp(self, directory: Path) -> TreeStamp:
        """The stamp of a tree that is complete and has its name; raises OSError."""
        status = directory.lstat()
        stamp = TreeStamp(status.st_ino, status.st_ctime_ns, _boot(), _now())
        # Last, so that a syncfs that takes the mark away has begun after everything of the tree was written.
        os.close(os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return stamp

    def matches(self, directory: Path, stamp: TreeStamp) -> bool:
        """Whether `directory` is the tree that the stamp was made of, with all that was written to it."""
        try:
            status = directory.lstat()
        except OSError:
            return False
        if (status.st_ino, status.st_ctime_ns) != (stamp.inode, stamp.changed):
            return False
        return stamp.boot == _boot() or stamp.made <= self._read_synced().get(stamp.boot, -1)

    def sync(self) -> None:
        """Waits until all trees are on the disk (seconds after a large build), and notes it; StoreError."""
        with map_errors(self._marker):
            self._marker.unlink(missing_ok=True)
        now = _now()
        with map_errors(self._lease.store), open_directory(self._lease.store) as directory:
            sync_filesystem(directory)
        before = [(boot, made) for boot, made in self._read_synced().items() if boot != _boot()]
        write(self._lease, self._notes, dict([*before[-_BOOTS + 1 :], (_boot(), now)]))

    def sync_in_background(self) -> None:
        """Starts a process that settles, for which nobody waits, once the kernel has written most itself."""
        try:
            age = time.time() - self._marker.stat().st_mtime
        except OSError:
            return
        if 0 <= age < _WRITEBACK or self._lease.descriptor is None:
            return
        with map_errors(self._marker):
            detach(start([*python_command("packhorse.store.snapshots"), str(self._lease.store)]))

    def _read_synced(self) -> dict[str, int]:
        notes = read(self._notes) or {}
        return {boot: made for boot, made in notes.items() if isinstance(made, int)}


def main(words: list[str]) -> int:
    """Settles the store at the path given; started by `sync_in_background`, whose command may be
    over by now.
    """
    accept_signals()
    lease = Lease.acquire(Path(words[0]))
    try:
        Disk(lease).sync()
    finally:
        lease.close()
    return 0


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


NAME_LENGTH = 32
"""How many digits of a diff ID name a kept tree."""

Owner = tuple[int, int]
"""The user and group, as ids of this machine, that a kept tree's files belong to."""


@dataclass(frozen=True, slots=True)
class LayerLocation:
    """Where a layer is inside: its directory (`/layers/<id>/<name>`), and the ids of its entries there."""

    path: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A kept layer: its diff ID, the length of its tar in bytes, and the directory it rests in."""

    location: LayerLocation
    diff_id: Digest
    size: int
    directory: Path

    @property
    def lower(self) -> Path:
        """What an overlay at `/layers` has as a lower."""
        return self.directory / "layers"

    @property
    def owner(self) -> Owner:
        """Whom its files belong to on this machine."""
        uid, _, gid = self.directory.parent.name.partition("-")
        return int(uid), int(gid)


class LayerSnapshots:
    """The kept trees of a store. What was found or kept stays as long as the store is open."""

    def __init__(self, lease: Lease, disk: Disk) -> None:
        self._lease = lease
        self._disk = disk

    def owner_directory(self, owner: Owner) -> Path:
        """The directory that the kept trees of `owner` are in, made when missing."""
        path = self._lease.store / "kept" / f"{owner[0]}-{owner[1]}"
        with map_errors(path):
            make_directory(path)
        return path

    def find(self, diff_id: Digest, owner: Owner) -> Snapshot | None:
        """The kept tree of a layer, None when there is none that can be relied on.

        One that was made shortly before the machine went down, or was copied here with the store, is read and
        hashed once, and stays only if it is what it should be.
        """
        return self._find(self.owner_directory(owner) / diff_id.hex[:NAME_LENGTH], diff_id)

    def find_any(self, diff_id: Digest) -> Snapshot | None:
        """As `find`, whoever owns the files: for the bytes, which do not depend on it."""
        with map_errors(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            tree = self._find(home / diff_id.hex[:NAME_LENGTH], diff_id)
            if tree is not None:
                return tree
        return None

    def remove_damaged(self, diff_id: Digest) -> None:
        """Reads the kept trees of a layer, whoever owns them, and removes those that have changed."""
        with map_errors(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            self.is_intact(home / diff_id.hex[:NAME_LENGTH])

    def is_intact(self, directory: Path) -> bool:
        """Whether a kept tree, if `directory` has one, is what its record says; else it is removed."""
        self._lease.pin(_object_path(directory))
        known = self._read_record(directory)
        if known is None:
            return True  # whoever looks for one finds none
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
                useless = self._lease.temporary(target.parent)
                with map_errors(target):
                    if os.path.lexists(target):
                        target.rename(useless)
                    directory.rename(target)
                self._write_record(tree)
        trash(useless, self._lease)
        return tree

    def chunks(self, tree: Snapshot) -> Iterator[bytes]:
        """The layer's tar, made anew and checked against its diff ID as it streams.

        Raises StoreError, after the last chunk, when the tree is no longer what it was; it is removed then.
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
                with suppress(StoreError):  # in a store that can only be read it is hashed every time
                    self._write_record(tree)
                return tree
            self._drop(directory)
        return None

    def _read_record(self, directory: Path) -> tuple[Snapshot, bool] | None:
        """The tree that a record speaks of, and whether the one in its place is that for certain."""
        fields = read(record_of(directory))
        if fields is None or not os.path.lexists(directory):
            return None
        node, stamp = JsonNode(fields, f"record of {directory}"), TreeStamp.parse(fields)
        try:
            inside = LayerLocation(node.text("path"), node.size("uid"), node.size("gid"))
            tree = Snapshot(inside, node.digest("diff_id"), node.size("size"), directory)
        except FormatError:
            return None
        return tree, stamp is not None and self._disk.matches(directory, stamp)

    def _write_record(self, tree: Snapshot) -> None:
        """Writes the record of a tree that is in its place."""
        with map_errors(tree.directory):
            stamp = self._disk.stamp(tree.directory)
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
        with suppress(StoreError):  # in a store that can only be read it is passed over every time
            remove(record_of(directory), self._lease)
            remove(directory, self._lease)


def record_of(directory: Path) -> Path:
    """The record file beside a tree."""
    return directory.with_name(f"{directory.name}.json")


def _has_right_content(tree: Snapshot) -> bool:
    """Whether a tree has the digest that it is named by, and the owner, which the digest does not cover."""
    try:
        return digest(_make_tar(tree.directory, tree.location))[0] == tree.diff_id and _has_right_owner(tree)
    except TreeError:
        return False


def _has_right_owner(tree: Snapshot) -> bool:
    with map_errors(tree.directory), overlay.open_directory(tree.directory) as above:
        entries = overlay.walk_statuses(above, tree.lower.name)
        return all((status.st_uid, status.st_gid) == tree.owner for status in entries)


def _make_tar(directory: Path, location: LayerLocation) -> Iterator[bytes]:
    """The layer of a tree. Directories above it are made up (reference: lifecycle v0.21 `layers/`).

    Raises TreeError for a tree that is no layer, StoreError for one that the system does not read.
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
    """A tree's path inside the store."""
    return str(Path(*directory.parts[-3:]))


def _damage_error(tree: Snapshot) -> StoreError:
    return StoreError(
        f"the kept layer {tree.location.path} was damaged",
        why=f"the files in {tree.directory} no longer have the digest {tree.diff_id}; they are removed now",
        fix="build the image again",
    )


def import_layer(
    lease: Lease, kept: LayerSnapshots, layer: Layer, inside: LayerLocation, idmap: IdMap
) -> bool:
    """Unpacks and keeps a layer of that place and those ids, from a cache image for instance.

    False when its tar is not the one of such a layer. Raises StoreError, and what reading the layer raises.
    """
    owner = idmap.to_outside(inside.uid, inside.gid)
    home = kept.owner_directory(owner)
    work, tree = lease.temporary(home), lease.temporary(home)
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
            with suppress(StoreError, HostError):  # the next sweep will
                remove(path, lease)


def _unpack(lease: Lease, layer: Layer, work: Path, idmap: IdMap, inside: LayerLocation) -> None:
    """Makes `tree` in `work`, by a child to which nothing else belongs; all is to be the CNB user's."""
    owners = "yes" if idmap.mode is MapMode.ROOT else "no"
    # A user's tree has to be his own: he could not move what belongs to a subordinate id.
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
