"""③ The layers of one build as one overlay at `/layers`: kept trees below, what the buildpacks write above.

`OverlayLayerCache` is the LayerCache of `lifecycle.ports` on a host; `copies` has another. One overlay covers
all of `/layers`, since a mount at a layer would answer EBUSY to `rm -rf` of it; so a layer is untouched if,
and only if, the upper has nothing of it. Called by platform, through `Store.open_layers`. Mounting is
`sandbox`'s.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.step import Overlay
from packhorse.base.tree import TreeView
from packhorse.errors import TreeError
from packhorse.image.view import Layer
from packhorse.store import merge
from packhorse.store.fault import map_errors
from packhorse.store.harvest import TARGET, LayerCacheWriter, split_layer_path
from packhorse.store.kept import Snapshot
from packhorse.store.shown import MountedLayerCache
from packhorse.store.upper import Change

_LOWERS = 32
_OPTIONS = 4000  # bytes for the paths of one mount, of its page of 4096


class OverlayLayerCache(MountedLayerCache):
    """The layers of one build, under an overlay whose upper is in the directory `scratch`."""

    copied = False

    def __init__(self, writer: LayerCacheWriter, scratch: Path) -> None:
        super().__init__(writer, scratch)
        self._hidden: dict[str, Snapshot] = {}
        with map_errors(scratch):
            for name in ("work", "empty"):
                writer.make_directory(scratch / name)

    def mounts(self) -> tuple[Overlay, ...]:
        """The mount of `/layers` for the next step; what was restored or captured since the last one is in
        it.
        """
        with self._lock:
            trees = list(self._restored.values())
        upper, work, lowers = self._upper.path, self._scratch / "work", [self._scratch / "empty"]
        room = _OPTIONS - sum(map(_option_length, (upper, work, *lowers)))
        while trees and len(lowers) < _LOWERS and room > _option_length(trees[-1].lower):
            lowers.append(trees.pop().lower)
            room -= _option_length(lowers[-1])
        if trees:
            lowers[0] = self._merge_snapshots(trees)
        return (Overlay(tuple(lowers), TARGET, upper, work),)

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path` in the rooms opened from now on; False when it is not kept
        here.
        """
        buildpack, name = split_layer_path(path)
        tree = self.writer.find_snapshot(path, diff_id)
        if tree is None:
            return False
        with self._lock:
            self._clear_opaque(buildpack)
            self._upper.clear(buildpack, name)
            self._captured.pop(path, None)
            self._hidden.pop(path, None)
            self._restored[path] = tree
        return True

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path`, and whether it is the restored one; raises TreeError when there is none.

        A changed layer moves from the upper to the kept trees, where it is hashed; what made no difference
        goes. Rooms opened from now on have the layer as before; a room open now no longer shows it reliably.
        So `view` is not looked at: its upper says it all.
        """
        buildpack, name = split_layer_path(path)
        with self._lock:
            self._clear_opaque(buildpack)
            change = self._upper.change(buildpack, name)
            below, hidden = self._restored.get(path), self._hidden.get(path)
            captured = self._captured.get(path)
        written, before = change in (Change.NEW, Change.PART), below or hidden
        if written and before and self._is_unchanged(buildpack, name, before, whole=below is None):
            with self._lock:
                self._upper.clear(buildpack, name)
                below = self._restored[path] = before
            change = Change.NONE
        if change is Change.NONE and below is not None:
            if captured is not None:
                return captured, False
            self.writer.count(untouched=not written, same=written)
            return self.writer.layer(below), True
        if change in (Change.NONE, Change.GONE):
            raise TreeError(f"{path} is not a directory", why=change.value)
        fill = partial(self._move, buildpack, name, below if change is Change.PART else None)
        tree = self.writer.add_snapshot(path, fill)
        layer = self.writer.layer(tree)
        with self._lock:
            self._restored[path] = tree
            self._captured[path] = layer
        return layer, False

    def _clear_opaque(self, buildpack: str) -> None:
        """Makes the layers of a buildpack that its directory hides absent, so that it need not hide them."""
        if self._upper.clear_opaque(buildpack):
            hidden = [path for path in self._restored if split_layer_path(path)[0] == buildpack]
            for path in hidden:
                self._hidden[path] = self._restored.pop(path)

    def _move(self, buildpack: str, name: str, below: Snapshot | None, parent: Path) -> int:
        """Moves a layer from the upper to `parent`; answers how many entries are linked from `below`."""
        with merge.open_directory(parent) as target:
            if below is None:
                self._upper.move_out(buildpack, name, target)
                return 0
            with merge.open_directory(below.lower / buildpack) as source:
                linked = merge.apply_entry(source, name, target)
            self._upper.move_onto(buildpack, name, target)
        return linked

    def _merge_snapshots(self, trees: list[Snapshot]) -> Path:
        """One lower with what all of `trees` have, for the mounts that cannot have them all."""
        key = Digest.of("".join(str(tree.diff_id) for tree in trees).encode()).short
        path = self._scratch / f"merged-{key}"
        if not path.exists():
            self.writer.make_directory(path)
            with map_errors(path), merge.open_directory(path) as target:
                for tree in trees:
                    with merge.open_directory(tree.lower) as source:
                        merge.apply_tree(source, target)
        return path


def _option_length(path: Path) -> int:
    return merge.option_length(bytes(path))
