"""Shows an application's kept layers to a build at `/layers`, and keeps the layers that the build made there.

`OverlayLayerCache` and `CopyLayerCache` are the two adapters of the port `lifecycle.ports.LayerCache`; both
make the same images, bit for bit. `Store.open_layers` and `Store.open_layer_copies` open them.

The overlay covers all of `/layers`, because a mount at a single layer would answer EBUSY to `rm -rf` of that
layer. The kept trees are its lower directories, and its upper directory has everything that buildpacks wrote.
So a layer is untouched if, and only if, the upper directory has nothing of it. `sandbox` mounts the overlay.

Copies are for buildpacks that cannot work on an overlay: one directory is bind-mounted at `/layers`. Copying
a layer takes the time to copy its bytes, unless the file system shares them, and later one lstat(2) of each
entry. Every write to a file changes its lstat(2), so an unchanged layer is not read.

Buildpacks wrote these trees, so this code follows no link in them.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.sandbox import Bind, Overlay
from packhorse.base.tree import TreeView
from packhorse.errors import TreeError
from packhorse.fs import overlay, walk
from packhorse.fs.compare import trees_equal
from packhorse.fs.copy import Signature, copy_entry, signature, wait_for_clock_tick
from packhorse.oci.place import Layer
from packhorse.store.layer_cache import TARGET, LayerCacheWriter, LayerCounters, split_layer_path
from packhorse.store.leases import map_errors
from packhorse.store.snapshots import Snapshot


class Change(Enum):
    """What buildpacks did to a layer's directory, as the upper directory shows it."""

    NONE = "nothing of it was written"
    GONE = "it was removed"
    NEW = "it is here, and hides what a lower has"
    PART = "it is here, over what a lower has"


class Upper:
    """Reads and edits the upper directory at `path`. A layer is named by its buildpack's and its own name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def change(self, buildpack: str, name: str) -> Change:
        """What buildpacks did to a layer. Raises TreeError if a directory was replaced by another entry."""
        with self._open() as top:
            status = walk.stat_existing(top, buildpack)
            if status is None or overlay.is_whiteout(status):
                return Change.NONE if status is None else Change.GONE
            _require_directory(status, f"/layers/{buildpack}")
            with _open_buildpack(top, buildpack) as directory:
                status = walk.stat_existing(directory, name)
                if status is None or overlay.is_whiteout(status):
                    return Change.NONE if status is None else Change.GONE
                _require_directory(status, f"/layers/{buildpack}/{name}")
                return Change.NEW if overlay.is_opaque(directory, name) else Change.PART

    def clear_opaque(self, buildpack: str) -> bool:
        """Removes the mark by which a buildpack's directory hides its layers in lowers; False if it has none.

        The kernel sets the mark on a directory that replaced a removed one, and also on new ones.
        """
        with self._open() as top:
            if not overlay.is_opaque(top, buildpack):
                return False
            overlay.clear_opaque(top, buildpack)
            return True

    def compare(self, buildpack: str, is_same: Callable[[int], bool]) -> bool:
        """Calls `is_same` with a descriptor of the directory with a buildpack's layers."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            return is_same(directory)

    def move_out(self, buildpack: str, name: str, target: int) -> None:
        """Moves a layer out of the upper into the directory `target`, without the overlay's marks."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            # Moving a directory changes its "..", so its owner needs permission to write to it.
            os.chmod(name, mode | stat.S_IRWXU, dir_fd=directory)
            os.rename(name, name, src_dir_fd=directory, dst_dir_fd=target)
            overlay.strip_overlay_xattrs(target, name)
            os.chmod(name, mode, dir_fd=target)

    def move_onto(self, buildpack: str, name: str, target: int) -> int:
        """Moves a layer's changes out of the upper to `target`, a copy of its lower; returns their number."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            count = overlay.apply_entry(directory, name, target)
            overlay.strip_overlay_xattrs(target, name)
            walk.remove(directory, name)
            return count

    def clear(self, buildpack: str, name: str) -> None:
        """Removes everything that the upper has of a layer, also a whiteout."""
        with self._open() as top:
            status = walk.stat_existing(top, buildpack)
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
    """Opens a buildpack's directory; gives its owner all permissions, because no layer has its mode."""
    status = os.stat(buildpack, dir_fd=top, follow_symlinks=False)
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(buildpack, stat.S_IMODE(status.st_mode) | stat.S_IRWXU, dir_fd=top)
    with overlay.open_subdirectory(top, buildpack) as directory:
        yield directory


def _require_directory(status: os.stat_result, path: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise TreeError(
            f"{path} is not a directory", why=f"a buildpack left {stat.filemode(status.st_mode)} there"
        )


class MountedLayerCache:
    """The parts that both layer caches share. Buildpacks write to the directory `layers` of `scratch`.

    Several threads may capture different layers at once.
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
        """What the layers have cost so far, for people."""
        return self.writer.counters

    @property
    def last_build_time(self) -> float:
        """The time at which the app's last build was recorded, in seconds since 1970; 0 if there was none."""
        return self.writer.last_build_time

    def read(self, writers: Sequence[str] = ()) -> bytes:
        """The metadata of the app's last build, b"" if there was none.

        `writers` are the buildpacks that write to layers; this cache serves all of them the same way.
        """
        return self.writer.read()

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        """Replaces the record of what the app's next build may restore."""
        self.writer.commit(metadata, layers)

    def _is_unchanged(self, buildpack: str, name: str, below: Snapshot, *, whole: bool) -> bool:
        """Whether the layer in the upper equals the kept tree `below`, merged with it, or `whole` without."""
        with map_errors(below.directory), overlay.open_directory(below.lower / buildpack) as lower:
            return self._upper.compare(buildpack, partial(trees_equal, lower=lower, name=name, whole=whole))


_LOWERS = 32  # the most lower directories of one mount
_OPTIONS = 4000  # bytes for the paths in the options of one mount, which has 4096 in all


class OverlayLayerCache(MountedLayerCache):
    """The layers of one build, through an overlay whose upper directory is in `scratch`."""

    copied = False

    def __init__(self, writer: LayerCacheWriter, scratch: Path) -> None:
        super().__init__(writer, scratch)
        self._hidden: dict[str, Snapshot] = {}
        with map_errors(scratch):
            for name in ("work", "empty"):
                writer.make_directory(scratch / name)

    def mounts(self) -> tuple[Overlay, ...]:
        """The mount of `/layers` for the next sandbox, with all layers restored or captured so far."""
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
        """Shows the kept layer at `path` in sandboxes opened from now on; False if it is not kept here."""
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
        """The layer at `path`, and whether it equals the restored one. Raises TreeError if there is none.

        It moves a changed layer from the upper to the kept trees, and hashes it there. It removes writes that
        changed nothing from the upper. Sandboxes opened from now on show the same layer; one that is open now
        may not. It reads the upper directory, and not `view`.
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
        """Hides the layers of a buildpack by leaving out their lowers, if its directory has the opaque mark.

        Then it removes the mark, which would also hide layers restored later.
        """
        if self._upper.clear_opaque(buildpack):
            hidden = [path for path in self._restored if split_layer_path(path)[0] == buildpack]
            for path in hidden:
                self._hidden[path] = self._restored.pop(path)

    def _move(self, buildpack: str, name: str, below: Snapshot | None, parent: Path) -> int:
        """Moves a layer from the upper to `parent`; returns the number of entries linked from `below`."""
        with overlay.open_directory(parent) as target:
            if below is None:
                self._upper.move_out(buildpack, name, target)
                return 0
            with overlay.open_directory(below.lower / buildpack) as source:
                linked = overlay.apply_entry(source, name, target)
            self._upper.move_onto(buildpack, name, target)
        return linked

    def _merge_snapshots(self, trees: list[Snapshot]) -> Path:
        """Makes one lower directory of `trees`, because a mount cannot have so many."""
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
        self._signatures: dict[str, Signature] = {}

    def mounts(self) -> tuple[Bind, ...]:
        """The mount of `/layers` for the next sandbox; first copies layers restored or captured meanwhile."""
        with self._lock:
            for path, tree in self._waiting.items():
                self._copy(path, tree)
            if self._waiting:
                with map_errors(self._scratch):
                    wait_for_clock_tick(self._scratch, self._latest_change())
            self._waiting.clear()
        return (Bind(self._upper.path, TARGET, writable=True),)

    def restore(self, path: str, diff_id: Digest) -> bool:
        """Shows the kept layer at `path` in sandboxes opened from now on; False if it is not kept here."""
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
        """The layer at `path`, and whether it equals the restored one. Raises TreeError if there is none.

        It moves a changed layer to the kept trees, and hashes it there. Sandboxes opened from now on get a
        copy; one that is open now no longer shows the layer.
        """
        buildpack, name = split_layer_path(path)
        with self._lock:
            waits = path in self._waiting
            change = Change.NONE if waits else self._upper.change(buildpack, name)
            below, captured = self._restored.get(path), self._captured.get(path)
        if change in (Change.NONE, Change.GONE) and not waits:
            raise TreeError(f"{path} is not a directory", why=change.value)
        if below is not None:
            unread = waits or self._upper.compare(buildpack, partial(self._is_unwritten, path))
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
                self.writer.count(copied=copy_entry(original, name, copy))
                self._signatures[path] = signature(copy, name)

    def _latest_change(self) -> int:
        """The latest change time of all files in the signatures, in nanoseconds."""
        return max((entry[-1] for each in self._signatures.values() for entry in each.values()), default=0)

    def _is_unwritten(self, path: str, directory: int) -> bool:
        """Whether no buildpack has written to the layer at `path`, in `directory`, since it was copied."""
        signed = self._signatures.get(path)
        try:
            return signed is not None and signature(directory, split_layer_path(path)[1]) == signed
        except (OSError, TreeError):
            return False

    def _move(self, buildpack: str, name: str, parent: Path) -> int:
        with overlay.open_directory(parent) as target:
            self._upper.move_out(buildpack, name, target)
        return 0
