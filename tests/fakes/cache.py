"""A LayerCache that keeps copies of layer directories, over the directory that a FakeRunner works in."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.tree import TreeView
from packhorse.oci.place import Layer
from packhorse.tar.writer import TarEntry, directory_entries, stream


@dataclass
class FakeCache:
    """The layers of one app; `root` is the tree of the build that goes on, `shelf` where copies are kept.

    Unlike the real one it reads every layer, and takes one that was written anew, but equal, for untouched.
    """

    root: Path
    shelf: Path
    metadata: bytes = b""
    kept: dict[tuple[str, Digest], Path] = field(default_factory=dict)
    restored: dict[str, Digest] = field(default_factory=dict)

    def read(self, writers: Sequence[str]) -> bytes:
        return self.metadata

    def restore(self, path: str, diff_id: Digest) -> bool:
        source = self.kept.get((path, diff_id))
        if source is None:
            return False
        shutil.copytree(source, self._inside(path), symlinks=True)
        self.restored[path] = diff_id
        return True

    def capture(self, view: TreeView, path: str) -> tuple[Layer, bool]:
        top, parent = (path.rsplit("/", count)[0] for count in (2, 1))
        parents = [TarEntry.directory(name, uid=1000, gid=1000) for name in (top, parent)]
        data = b"".join(stream(directory_entries(view, path, uid=1000, gid=1000, parents=parents)))
        diff_id = Digest.of(data)
        if (path, diff_id) not in self.kept:
            copy = self.shelf / str(len(self.kept))
            shutil.copytree(self._inside(path), copy, symlinks=True)
            self.kept[path, diff_id] = copy
        return Layer(lambda: iter((data,)), diff_id, len(data)), self.restored.get(path) == diff_id

    def commit(self, metadata: bytes, layers: Mapping[str, Digest]) -> None:
        for path, diff_id in layers.items():
            assert (path, diff_id) in self.kept, f"{path} was never captured"
        self.metadata = metadata

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")
