"""③ The layers of one build as plain copies of kept trees, in one directory that is bound to `/layers`.

`CopyLayerCache` is the LayerCache of `lifecycle.ports` for a build that cannot have an overlay there. A
copied layer costs as much as its bytes where the file system does not share them, and one look at each of its
entries afterwards: what stat(2) says of a file changes with any write to it, so that a layer of which nothing
has changed is not read. The images are those of `overlay`, bit for bit. Called by platform, through
`Store.open_layer_copies`.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.step import Bind
from packhorse.base.tree import TreeView
from packhorse.errors import TreeError
from packhorse.image.view import Layer
from packhorse.store import merge, replica
from packhorse.store.fault import map_errors
from packhorse.store.harvest import TARGET, LayerCacheWriter, split_layer_path
from packhorse.store.kept import Snapshot
from packhorse.store.shown import MountedLayerCache
from packhorse.store.upper import Change


class CopyLayerCache(MountedLayerCache):
    """The layers of one build, copied into the directory `scratch`, which is on the store's file system."""

    copied = True

    def __init__(self, writer: LayerCacheWriter, scratch: Path) -> None:
        super().__init__(writer, scratch)
        self._waiting: dict[str, Snapshot] = {}
        self._signed: dict[str, replica.Signature] = {}

    def mounts(self) -> tuple[Bind, ...]:
        """The mount of `/layers` for the next step; what was restored or captured since the last one is
        copied now.
        """
        with self._lock:
            for path, tree in self._waiting.items():
                self._copy(path, tree)
            if self._waiting:
                self._wait_for_clock_tick()
            self._waiting.clear()
        return (Bind(self._upper.path, TARGET, writable=True),)

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Makes the kept layer appear at `path` in the rooms opened from now on; False when it is not kept
        here.
        """
        buildpack, name = split_layer_path(path)
        tree = self.writer.find_snapshot(path, diff_id)
        if tree is None:
            return False
        with self._lock:
            self._upper.clear(buildpack, name)
            self._captured.pop(path, None)
            self._restored[path] = self._waiting[path] = tree
        return True

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        """The layer at `path`, and whether it is the restored one; raises TreeError when there is none.

        One that differs moves to the kept trees, where it is hashed, and is copied again for the rooms opened
        from now on; a room open now no longer shows it.
        """
        buildpack, name = split_layer_path(path)
        with self._lock:
            waits = path in self._waiting
            change = Change.NONE if waits else self._upper.change(buildpack, name)
            below, captured = self._restored.get(path), self._captured.get(path)
        if change in (Change.NONE, Change.GONE) and not waits:
            raise TreeError(f"{path} is not a directory", why=change.value)
        if below is not None:
            unread = waits or self._upper.compare(buildpack, partial(self._is_signed, path))
            if unread or self._is_unchanged(buildpack, name, below, whole=True):
                if captured is not None:
                    return captured, False
                self.writer.count(untouched=unread, same=not unread)
                return self.writer.layer(below), True
        tree = self.writer.add_snapshot(path, partial(self._move, buildpack, name))
        layer = self.writer.layer(tree)
        with self._lock:
            self._restored[path] = self._waiting[path] = tree
            self._captured[path] = layer
        return layer, False

    def _copy(self, path: str, tree: Snapshot) -> None:
        buildpack, name = split_layer_path(path)
        self._upper.clear(buildpack, name)
        with map_errors(self._scratch):
            self.writer.make_directory(self._upper.path / buildpack)
            source, target = tree.lower / buildpack, self._upper.path / buildpack
            with merge.open_directory(source) as original, merge.open_directory(target) as copy:
                self.writer.count(copied=replica.copy(original, name, copy))
                self._signed[path] = replica.signature(copy, name)

    def _wait_for_clock_tick(self) -> None:
        """Returns when a file written now would be of another time than all that was signed.

        File systems write down the time of the kernel's last tick, some milliseconds ago.
        """
        latest = max((entry[-1] for each in self._signed.values() for entry in each.values()), default=0)
        path = self._scratch / "clock"
        with map_errors(path):
            path.touch()
            while path.stat().st_ctime_ns <= latest:
                time.sleep(0.001)
                os.utime(path)
            path.unlink()

    def _is_signed(self, path: str, directory: int) -> bool:
        """Whether nobody has written to the layer at `path`, which is in `directory`, since it was copied."""
        signed = self._signed.get(path)
        try:
            return signed is not None and replica.signature(directory, split_layer_path(path)[1]) == signed
        except (OSError, TreeError):
            return False

    def _move(self, buildpack: str, name: str, parent: Path) -> int:
        with merge.open_directory(parent) as target:
            self._upper.move_out(buildpack, name, target)
        return 0
