"""③ Layers from elsewhere as kept trees: unpacked, hashed, and kept if they are what they are said to be.

Called by store, for what a cache image has.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from packhorse.base import userns
from packhorse.base.userns import IdMap, Mode
from packhorse.errors import FormatError, HostError, StoreError, TreeError
from packhorse.image.view import Layer
from packhorse.store import errand, merge, removal
from packhorse.store.fault import faults
from packhorse.store.kept import Inside, Kept
from packhorse.store.lease import Lease, make_directory


def take(lease: Lease, kept: Kept, layer: Layer, inside: Inside, idmap: IdMap) -> bool:
    """Keeps a layer of that place and those ids; False when its tar is not the one of such a layer.

    Raises StoreError, and what reading the layer raises.
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
