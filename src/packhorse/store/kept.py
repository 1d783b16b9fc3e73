"""③ Layer directories kept between builds: `kept/<owner>/<diff ID, 32 digits>/layers/<id>/<layer>/…`.

A kept tree is a lower directory of the overlay that covers `/layers` in a build, and the source of the
layer's tar when somebody needs the bytes. It is never written again. Names are short because all lowers of a
mount share 4096 bytes. Called by overlay (which makes them), shelf (which reads them) and gc.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from packhorse.base import userns
from packhorse.base.dataclass import dataclass
from packhorse.base.digest import Digest
from packhorse.base.rooted import Rooted
from packhorse.base.userns import IdMap, Mode
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.image.view import Layer
from packhorse.image.wire import Node
from packhorse.layers import tar
from packhorse.layers.tree import TarEntry
from packhorse.layers.tree import directory as layer_entries
from packhorse.store import errand, merge, record, removal
from packhorse.store.disk import Disk, Stamp
from packhorse.store.fault import fault, faults, is_about
from packhorse.store.lease import Lease, make_directory

NAME_LENGTH = 32
"""How many digits of a diff ID name a kept tree."""

Owner = tuple[int, int]
"""The user and group, as ids of this machine, that a kept tree's files belong to."""


@dataclass(frozen=True, slots=True)
class Inside:
    """Where a layer is inside: its directory (`/layers/<id>/<name>`), and the ids of its entries there."""

    path: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class KeptTree:
    """A kept layer: its diff ID, the length of its tar in bytes, and the directory it rests in."""

    inside: Inside
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


class Kept:
    """The kept trees of a store. What was found or kept stays as long as the store is open."""

    def __init__(self, lease: Lease, disk: Disk) -> None:
        self._lease = lease
        self._disk = disk

    def home(self, owner: Owner) -> Path:
        """The directory that the kept trees of `owner` are in, made when missing."""
        path = self._lease.store / "kept" / f"{owner[0]}-{owner[1]}"
        with faults(path):
            make_directory(path)
        return path

    def find(self, diff_id: Digest, owner: Owner) -> KeptTree | None:
        """The kept tree of a layer, None when there is none that can be relied on.

        One that was made shortly before the machine went down, or was copied here with the store, is read and
        hashed once, and stays only if it is what it should be.
        """
        return self._find(self.home(owner) / diff_id.hex[:NAME_LENGTH], diff_id)

    def find_any(self, diff_id: Digest) -> KeptTree | None:
        """As `find`, whoever owns the files: for the bytes, which do not depend on it."""
        with faults(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            tree = self._find(home / diff_id.hex[:NAME_LENGTH], diff_id)
            if tree is not None:
                return tree
        return None

    def remove_damaged(self, diff_id: Digest) -> None:
        """Reads the kept trees of a layer, whoever owns them, and removes those that have changed."""
        with faults(self._lease.store):
            homes = sorted((self._lease.store / "kept").iterdir())
        for home in homes:
            self.is_sound(home / diff_id.hex[:NAME_LENGTH])

    def is_sound(self, directory: Path) -> bool:
        """Whether a kept tree, if `directory` has one, is what its record says; else it is removed."""
        self._lease.pin(_object(directory))
        known = self._known(directory)
        if known is None:
            return True  # whoever looks for one finds none
        with self._lease.lock("kept", known[0].diff_id):
            sound = _is_what_it_should_be(known[0])
            if not sound:
                self._drop(directory)
        return sound

    def keep(self, directory: Path, inside: Inside, owner: Owner) -> KeptTree:
        """Hashes the tree `directory`, which has `layers/<id>/<name>` and lies in `home(owner)`, and keeps
        it.

        If an equal one is kept already, that stays and the new one goes. TreeError when it cannot be a layer.
        """
        diff_id, size = tar.digest(_tar(directory, inside))
        target = self.home(owner) / diff_id.hex[:NAME_LENGTH]
        tree = KeptTree(inside, diff_id, size, target)
        self._lease.pin(_object(target))
        with self._lease.lock("kept", diff_id):
            known = self._known(target)
            useless = directory
            if known is None or known[0].diff_id != diff_id or not known[1]:
                useless = self._lease.temporary(target.parent)
                with faults(target):
                    if os.path.lexists(target):
                        target.rename(useless)
                    directory.rename(target)
                self._note(tree)
        removal.discard(useless, self._lease)
        return tree

    def chunks(self, tree: KeptTree) -> Iterator[bytes]:
        """The layer's tar, made anew and checked against its diff ID as it streams.

        Raises StoreError, after the last chunk, when the tree is no longer what it was; it is removed then.
        """
        total = hashlib.sha256()
        try:
            for chunk in _tar(tree.directory, tree.inside):
                total.update(chunk)
                yield chunk
        except TreeError as error:
            self._drop(tree.directory)
            raise _damage(tree) from error
        if total.hexdigest() != tree.diff_id.hex:
            self._drop(tree.directory)
            raise _damage(tree)

    def _find(self, directory: Path, diff_id: Digest) -> KeptTree | None:
        self._lease.pin(_object(directory))
        known = self._known(directory)
        if known is None or known[0].diff_id != diff_id:
            return None
        tree, trusted = known
        if trusted:
            return tree
        with self._lease.lock("kept", diff_id):
            if _is_what_it_should_be(tree):
                with suppress(StoreError):  # in a store that can only be read it is hashed every time
                    self._note(tree)
                return tree
            self._drop(directory)
        return None

    def _known(self, directory: Path) -> tuple[KeptTree, bool] | None:
        """The tree that a record speaks of, and whether the one in its place is that for certain."""
        fields = record.read(record_of(directory))
        if fields is None or not os.path.lexists(directory):
            return None
        node, stamp = Node(fields, f"record of {directory}"), Stamp.parse(fields)
        try:
            inside = Inside(node.text("path"), node.size("uid"), node.size("gid"))
            tree = KeptTree(inside, node.digest("diff_id"), node.size("size"), directory)
        except FormatError:
            return None
        return tree, stamp is not None and self._disk.holds(directory, stamp)

    def _note(self, tree: KeptTree) -> None:
        """Writes the record of a tree that is in its place."""
        with faults(tree.directory):
            stamp = self._disk.stamp(tree.directory)
        fields = {
            "path": tree.inside.path,
            "uid": tree.inside.uid,
            "gid": tree.inside.gid,
            "diff_id": str(tree.diff_id),
            "size": tree.size,
            **stamp.fields(),
        }
        record.write(self._lease, record_of(tree.directory), fields, durable=False)

    def _drop(self, directory: Path) -> None:
        with suppress(StoreError):  # in a store that can only be read it is passed over every time
            removal.remove(record_of(directory), self._lease)
            removal.remove(directory, self._lease)


def record_of(directory: Path) -> Path:
    """The record file beside a tree."""
    return directory.with_name(f"{directory.name}.json")


def _is_what_it_should_be(tree: KeptTree) -> bool:
    """Whether a tree has the digest that it is named by, and the owner, which the digest does not cover."""
    try:
        return tar.digest(_tar(tree.directory, tree.inside))[0] == tree.diff_id and _is_owned(tree)
    except TreeError:
        return False


def _is_owned(tree: KeptTree) -> bool:
    with faults(tree.directory), merge.directory(tree.directory) as above:
        entries = merge.statuses(above, tree.lower.name)
        return all((status.st_uid, status.st_gid) == tree.owner for status in entries)


def _tar(directory: Path, inside: Inside) -> Iterator[bytes]:
    """The layer of a tree. Directories above it are made up (reference: lifecycle v0.21 `layers/`).

    Raises TreeError for a tree that is no layer, StoreError for one that the system does not read.
    """
    top, parent = (inside.path.rsplit("/", count)[0] for count in (2, 1))
    parents = [TarEntry.directory(name, uid=inside.uid, gid=inside.gid) for name in (top, parent)]
    try:
        with faults(directory), Rooted.local(directory) as view:
            found = layer_entries(view, inside.path, uid=inside.uid, gid=inside.gid, parents=parents)
            yield from tar.stream(found)
    except TreeError as error:
        if isinstance(error.__cause__, OSError) and is_about(error.__cause__, directory):
            raise fault(error.__cause__, directory) from error
        raise


def _object(directory: Path) -> str:
    """A tree's path inside the store."""
    return str(Path(*directory.parts[-3:]))


def _damage(tree: KeptTree) -> StoreError:
    return StoreError(
        f"the kept layer {tree.inside.path} was damaged",
        why=f"the files in {tree.directory} no longer have the digest {tree.diff_id}; they are removed now",
        fix="build the image again",
    )


def import_layer(lease: Lease, kept: Kept, layer: Layer, inside: Inside, idmap: IdMap) -> bool:
    """Unpacks and keeps a layer of that place and those ids, from a cache image for instance.

    False when its tar is not the one of such a layer. Raises StoreError, and what reading the layer raises.
    """
    owner = idmap.outside(inside.uid, inside.gid)
    home = kept.home(owner)
    work, tree = lease.temporary(home), lease.temporary(home)
    try:
        with faults(work):
            make_directory(work)
            if idmap.mode is Mode.ROOT:
                os.chown(work, *idmap.outside(0, 0))
        _unpack(lease, layer, work, idmap, inside)
        with faults(tree):
            (work / "tree").rename(tree)
        made = kept.keep(tree, inside, owner)
        if made.diff_id != layer.diff_id:
            lease.give_up({f"kept/{made.directory.name}"})
        return made.diff_id == layer.diff_id
    except (FormatError, TreeError):
        return False
    finally:
        for path in (work, tree):
            with suppress(StoreError, HostError):  # the next sweep will
                removal.remove(path, lease)


def _unpack(lease: Lease, layer: Layer, work: Path, idmap: IdMap, inside: Inside) -> None:
    """Makes `tree` in `work`, by a child to which nothing else belongs; all is to be the CNB user's."""
    owners = "yes" if idmap.mode is Mode.ROOT else "no"
    # A user's tree has to be his own: he could not move what belongs to a subordinate id.
    ids = idmap if idmap.mode is Mode.ROOT else userns.choose(inside.uid, inside.gid, mode=Mode.SINGLE)
    with userns.make(ids) as namespace, merge.directory(work) as parent:
        errand.run(
            ["unpack", str(parent), "tree", owners],
            where=work,
            namespace=namespace,
            lease=lease,
            directories=[parent],
            stdin=layer.tar(),
        )
