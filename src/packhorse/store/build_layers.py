"""Shows the kept layers of an application to a build at `/layers`, and captures what the build made of them.

`OverlayLayerCache` and `CopyLayerCache` are the two adapters of the port `lifecycle.ports.LayerCache`; both
make the same images, bit for bit. `Store.open_layers` and `Store.open_layer_copies` open them.

The overlay covers all of `/layers`, because a mount at a single layer would answer EBUSY to `rm -rf` of that
layer. The kept trees are its lower directories, and the upper directory holds everything that the buildpacks
wrote. So a layer is untouched if, and only if, the upper directory has nothing of it. `sandbox` mounts it.

Copies are for a build that cannot have an overlay there: one directory is bound to `/layers`. A copied layer
costs as much as its bytes where the file system does not share them, and one stat(2) of each entry
afterwards. Every write to a file changes what stat(2) says of it, so an unchanged layer is not read.

Buildpacks wrote these trees: no link in them is followed.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.sandbox import Bind, Overlay
from packhorse.base.tree import TreeView
from packhorse.errors import TreeError
from packhorse.fs import copy as replica
from packhorse.fs import overlay, walk
from packhorse.fs.compare import trees_equal
from packhorse.oci.place import Layer
from packhorse.store.layer_cache import TARGET, LayerCacheWriter, LayerCounters, split_layer_path
from packhorse.store.leases import map_errors
from packhorse.store.snapshots import Snapshot


class Change(Enum):
    """What the upper says of a layer's directory."""

    NONE = "nothing of it was written"
    GONE = "it was removed"
    NEW = "it is here, and hides what a lower has"
    PART = "it is here, over what a lower has"


class Upper:
    """The upper directory at `path`; a layer in it is named by its buildpack's directory and its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def change(self, buildpack: str, name: str) -> Change:
        """What was done to a layer; raises TreeError when a directory was replaced by something else."""
        with self._open() as top:
            status = _stat(top, buildpack)
            if status is None or overlay.is_whiteout(status):
                return Change.NONE if status is None else Change.GONE
            _require_directory(status, f"/layers/{buildpack}")
            with _open_buildpack(top, buildpack) as directory:
                status = _stat(directory, name)
                if status is None or overlay.is_whiteout(status):
                    return Change.NONE if status is None else Change.GONE
                _require_directory(status, f"/layers/{buildpack}/{name}")
                return Change.NEW if overlay.is_opaque(directory, name) else Change.PART

    def clear_opaque(self, buildpack: str) -> bool:
        """Takes the mark off a buildpack's directory that hides all its layers in lowers; False when it has
        none.

        The kernel sets it on a directory that replaced a removed one, and on new ones for its own
        convenience.
        """
        with self._open() as top:
            if not overlay.is_opaque(top, buildpack):
                return False
            overlay.clear_opaque(top, buildpack)
            return True

    def compare(self, buildpack: str, is_same: Callable[[int], bool]) -> bool:
        """What `is_same` says of the directory, a descriptor, in which a buildpack's layers are."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            return is_same(directory)

    def move_out(self, buildpack: str, name: str, target: int) -> None:
        """Moves a layer out of the upper into the directory `target`, without the overlay's marks."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            # Moving a directory changes its "..", for which its owner needs to be allowed to write it.
            os.chmod(name, mode | stat.S_IRWXU, dir_fd=directory)
            os.rename(name, name, src_dir_fd=directory, dst_dir_fd=target)
            overlay.strip_overlay_xattrs(target, name)
            os.chmod(name, mode, dir_fd=target)

    def move_onto(self, buildpack: str, name: str, target: int) -> int:
        """Moves a layer's changes out of the upper onto `target`, the tree they were made to; counts them."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            count = overlay.apply_entry(directory, name, target)
            overlay.strip_overlay_xattrs(target, name)
            walk.remove(directory, name)
            return count

    def clear(self, buildpack: str, name: str) -> None:
        """Removes whatever the upper has of a layer, also that it was removed."""
        with self._open() as top:
            status = _stat(top, buildpack)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                walk.remove(top, buildpack)
            elif status is not None:
                with _open_buildpack(top, buildpack) as directory:
                    walk.remove(directory, name)

    @contextmanager
    def _open(self) -> Iterator[int]:
        with map_errors(self.path), overlay.open_directory(self.path) as descriptor:
            yield descriptor


@contextmanager
def _open_buildpack(top: int, buildpack: str) -> Iterator[int]:
    """A descriptor of a buildpack's directory, made its owner's to use: no layer depends on its mode."""
    status = os.stat(buildpack, dir_fd=top, follow_symlinks=False)
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(buildpack, stat.S_IMODE(status.st_mode) | stat.S_IRWXU, dir_fd=top)
    with overlay.open_subdirectory(top, buildpack) as directory:
        yield directory


def _stat(directory: int, name: str) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


def _require_directory(status: os.stat_result, path: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise TreeError(
            f"{path} is not a directory", why=f"a buildpack left {stat.filemode(status.st_mode)} there"
        )


class MountedLayerCache:
    """The layers of one build; what buildpacks write of them is in the directory `layers` of `scratch`.

    Different layers may be captured from several threads at once.
    """

    def __init__(self, writer: LayerCacheWriter, scratch: Path) -> None:
        self.writer = writer
        self._scratch = scratch
        self._upper = Upper(scratch / "layers")
        self._restored: dict[str, Snapshot] = {}
        self._captured: dict[str, Layer] = {}
        self._lock = threading.Lock()
        with map_errors(scratch):
            writer.make_directory(scratch / "layers")

    @property
    def counters(self) -> LayerCounters:
        """What was done so far, for people to read."""
        return self.writer.counters

    @property
    def last_build_time(self) -> float:
        """When the app's last build was recorded, in seconds since 1970; 0 when there was none."""
        return self.writer.last_build_time

    def read(self, writers: Sequence[str] = ()) -> bytes:
        """The metadata of the app's last build, b"" when there was none; layers are shown the same way to all
        `writers`.
        """
        return self.writer.read()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Records what the app's next build may restore, in place of what was recorded before."""
        self.writer.commit(metadata, layers)

    def _is_unchanged(self, buildpack: str, name: str, below: Snapshot, *, whole: bool) -> bool:
        """Whether what is written over a layer, or in the place of the `whole` one, makes no difference."""
        with map_errors(below.directory), overlay.open_directory(below.lower / buildpack) as lower:
            return self._upper.compare(buildpack, partial(trees_equal, lower=lower, name=name, whole=whole))


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
        with overlay.open_directory(parent) as target:
            if below is None:
                self._upper.move_out(buildpack, name, target)
                return 0
            with overlay.open_directory(below.lower / buildpack) as source:
                linked = overlay.apply_entry(source, name, target)
            self._upper.move_onto(buildpack, name, target)
        return linked

    def _merge_snapshots(self, trees: list[Snapshot]) -> Path:
        """One lower with what all of `trees` have, for the mounts that cannot have them all."""
        key = Digest.of("".join(str(tree.diff_id) for tree in trees).encode()).short
        path = self._scratch / f"merged-{key}"
        if not path.exists():
            self.writer.make_directory(path)
            with map_errors(path), overlay.open_directory(path) as target:
                for tree in trees:
                    with overlay.open_directory(tree.lower) as source:
                        overlay.apply_tree(source, target)
        return path


def _option_length(path: Path) -> int:
    return overlay.option_length(bytes(path))


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
            with overlay.open_directory(source) as original, overlay.open_directory(target) as copy:
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
        with overlay.open_directory(parent) as target:
            self._upper.move_out(buildpack, name, target)
        return 0
