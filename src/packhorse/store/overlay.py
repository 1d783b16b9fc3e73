"""③ The layers of one build as one overlay at `/layers`: kept trees below, what the buildpacks write above.

`LayersOverlay` is the LayerCache of `lifecycle.ports` on a host. One overlay covers all of `/layers`, since a
mount at a layer would answer EBUSY to `rm -rf` of it; so a layer is untouched if, and only if, the upper has
nothing of it. Called by platform, through `Store.layers`. Mounting is `sandbox`'s.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.step import Overlay
from packhorse.base.tree import TreeView
from packhorse.errors import HostError, StoreError, TreeError
from packhorse.image.view import Layer
from packhorse.store import gc, merge, record, removal
from packhorse.store.fault import faults
from packhorse.store.kept import Inside, Kept, KeptTree, Owner
from packhorse.store.lease import Lease, make_directory
from packhorse.store.upper import Change, Upper

TARGET = "/layers"

_LOWERS = 32
_OPTIONS = 4000  # bytes for the paths of one mount, of its page of 4096


@dataclass(frozen=True, slots=True)
class Counters:
    """What the layers of a build have cost so far.

    `untouched` layers were neither read nor hashed. `hashed` is in bytes of tar; `linked` counts entries that
    a partly changed layer shares with what it was.
    """

    untouched: int = 0
    changed: int = 0
    hashed: int = 0
    linked: int = 0


class LayersOverlay:
    """The layers of one build of one app, whose entries belong to `uid`:`gid` inside and `owner` outside.

    `cache` is the record file of the app. Different layers may be captured from several threads at once.
    """

    def __init__(
        self, lease: Lease, kept: Kept, *, cache: Path, scratch: Path, uid: int, gid: int, owner: Owner
    ) -> None:
        self._lease = lease
        self._kept = kept
        self._cache = cache
        self._scratch = scratch
        self._uid, self._gid = uid, gid
        self._owner = owner
        self._upper = Upper(scratch / "layers")
        self._restored: dict[str, KeptTree] = {}
        self._captured: dict[str, Layer] = {}
        self._counters = Counters()
        self._lock = threading.Lock()
        with faults(scratch):
            for name in ("layers", "work", "empty"):
                self._directory(scratch / name)

    @property
    def counters(self) -> Counters:
        """What was done so far, for people to read."""
        with self._lock:
            return self._counters

    @property
    def recorded(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        with faults(self._cache):
            return self._cache.stat().st_mtime if self._cache.exists() else 0

    def mounts(self) -> tuple[Overlay, ...]:
        """The mount of `/layers` for the next step; what was restored or captured since the last one is in
        it.
        """
        with self._lock:
            trees = list(self._restored.values())
        upper, work, lowers = self._upper.path, self._scratch / "work", [self._scratch / "empty"]
        room = _OPTIONS - sum(map(_length, (upper, work, *lowers)))
        while trees and len(lowers) < _LOWERS and room > _length(trees[-1].lower):
            lowers.append(trees.pop().lower)
            room -= _length(lowers[-1])
        if trees:
            lowers[0] = self._merged(trees)
        return (Overlay(tuple(lowers), TARGET, upper, work),)

    def read(self) -> bytes:
        """The metadata of the app's last build, b"" when there was none."""
        metadata = (record.read(self._cache) or {}).get("metadata", "")
        return str(metadata).encode("utf-8", "surrogateescape")

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path` in the rooms opened from now on; False when it is not kept
        here.
        """
        buildpack, name = _split(path)
        tree = self._kept.find(diff_id, self._owner)
        if tree is None or tree.inside != Inside(path, self._uid, self._gid):
            return False
        with self._lock:
            self._uncover(buildpack)
            self._upper.forget(buildpack, name)
            self._captured.pop(path, None)
            self._restored[path] = tree
        return True

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path`, and whether it is the restored one, untouched; raises TreeError when there is
        none.

        A changed layer moves from the upper to the kept trees, where it is hashed. Rooms opened from now on
        have it as before; a room open now no longer shows it reliably. So `view` is not looked at: its upper
        says it all.
        """
        buildpack, name = _split(path)
        with self._lock:
            self._uncover(buildpack)
            change = self._upper.change(buildpack, name)
            below = self._restored.get(path)
            captured = self._captured.get(path)
        if change is Change.NONE and captured is not None:
            return captured, False
        if change is Change.NONE and below is not None:
            with self._lock:
                self._counters = replace(self._counters, untouched=self._counters.untouched + 1)
            return self._layer(below), True
        if change in (Change.NONE, Change.GONE):
            raise TreeError(f"{path} is not a directory", why=change.value)
        tree, linked = self._keep(buildpack, name, below if change is Change.PART else None)
        layer = self._layer(tree)
        with self._lock:
            self._restored[path] = tree
            self._captured[path] = layer
            self._counters = replace(
                self._counters,
                changed=self._counters.changed + 1,
                hashed=self._counters.hashed + tree.size,
                linked=self._counters.linked + linked,
            )
        return layer, False

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        fields = {
            "metadata": metadata.decode("utf-8", "surrogateescape"),
            "layers": {path: str(diff_id) for path, diff_id in sorted(layers.items())},
        }
        before = gc.needed_for_next(record.read(self._cache))
        record.write(self._lease, self._cache, fields)
        self._lease.give_up(before - gc.needed_for_next(fields))

    def _uncover(self, buildpack: str) -> None:
        """Makes the layers of a buildpack that its directory hides absent, so that it need not hide them."""
        if self._upper.uncover(buildpack):
            hidden = [path for path in self._restored if _split(path)[0] == buildpack]
            for path in hidden:
                del self._restored[path]

    def _keep(self, buildpack: str, name: str, below: KeptTree | None) -> tuple[KeptTree, int]:
        """Moves a layer from the upper to the kept trees; its unchanged part is linked from `below`."""
        directory = self._lease.temporary(self._kept.home(self._owner))
        inside = Inside(f"{TARGET}/{buildpack}/{name}", self._uid, self._gid)
        try:
            with faults(directory):
                linked = self._move(buildpack, name, below, directory)
            return self._kept.keep(directory, inside, self._owner), linked
        except BaseException:
            with suppress(StoreError, HostError):
                removal.remove(directory, self._lease)
            raise

    def _move(self, buildpack: str, name: str, below: KeptTree | None, directory: Path) -> int:
        """Fills the new `directory` as kept trees are; answers how many entries are linked from `below`."""
        linked = 0
        parent = directory / "layers" / buildpack
        for path in (directory, parent.parent, parent):
            self._directory(path)
        with _opened(parent) as target:
            if below is None:
                self._upper.take(buildpack, name, target)
            else:
                with _opened(below.lower / buildpack) as source:
                    linked = merge.lay_one(source, name, target)
                self._upper.lay(buildpack, name, target)
        return linked

    def _merged(self, trees: list[KeptTree]) -> Path:
        """One lower with what all of `trees` have, for the mounts that cannot have them all."""
        key = Digest.of("".join(str(tree.diff_id) for tree in trees).encode()).short
        path = self._scratch / f"merged-{key}"
        if not path.exists():
            self._directory(path)
            with faults(path), _opened(path) as target:
                for tree in trees:
                    with _opened(tree.lower) as source:
                        merge.lay(source, target)
        return path

    def _layer(self, tree: KeptTree) -> Layer:
        return Layer(partial(self._kept.chunks, tree), tree.diff_id, tree.size)

    def _directory(self, path: Path) -> None:
        """Makes a directory that belongs to the CNB user, whatever the umask."""
        make_directory(path)
        os.chown(path, *self._owner)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _length(path: Path) -> int:
    return merge.option_length(bytes(path))


def _split(path: str) -> tuple[str, str]:
    """The buildpack's directory and the layer's name of `/layers/<id>/<name>`."""
    parts = path.split("/")
    if len(parts) != 4 or parts[:2] != ["", "layers"] or {"", ".", ".."} & set(parts[2:]):
        raise TreeError(f"{path!r} is not a layer's directory", why="those are /layers/<buildpack>/<layer>")
    return parts[2], parts[3]
