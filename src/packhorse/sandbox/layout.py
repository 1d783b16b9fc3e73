"""Where a step's mounts come from and go to, as found on this machine; asked by `runner` for every step."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.rooted import RootedTree
from packhorse.base.step import Bind, SandboxSpec
from packhorse.base.userns import IdMap
from packhorse.errors import SandboxError
from packhorse.sandbox import confinement, skeleton
from packhorse.sandbox.sources import sources

_MOST = 100
"""How many sets of mount points are kept, of some twenty entries each."""

_UNUSED = 30 * 86400
"""Seconds after which one that no build has used goes; a build does not last as long."""

_HASH_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Layout:
    """`place` gives the path at which a target is mounted, `skeleton` the directory with all mount points.

    `masked` are those of the masked paths that exist; `directory` is where the step's own files go.
    """

    skeleton: Path
    place: Callable[[str], str]
    masked: Sequence[str] = ()
    directory: Path = Path()

    def repeat_line(self, before: Sequence[str], documents: Mapping[int, bytes], after: Sequence[str]) -> str:
        """A shell's line of words, with `documents` to be read from descriptors.

        One has the step's environment, secrets perhaps, and every user can read a command line. OSError.
        """
        words = [shlex.join(before)]
        for number, document in documents.items():
            path = self.directory / f"{self.skeleton.name}-repeated-{number}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(document)
            words.append(f"{number}<{shlex.quote(str(path))}")
        return f"{' '.join(words)} -- {shlex.join(after)}"


def remove_unused(kept: Path) -> None:
    """Removes mount points that no build has used for long."""
    with suppress(OSError):
        for each in kept.iterdir():
            if time.time() - each.stat().st_mtime > _UNUSED:
                shutil.rmtree(each, ignore_errors=True)


class Layouts:
    """Lays out the steps of one build, with mount points below `directory`, for root of `idmap` to see.

    They are the same for most steps, and never written, so those are made once; and of most builds, so those
    of before are `kept`, as long as there are not many. Safe from several threads.
    """

    def __init__(self, directory: Path, idmap: IdMap, *, kept: Path | None = None) -> None:
        self._directory = directory
        self._kept = kept
        self._owner = (idmap.uids[0].outside, idmap.gids[0].outside)
        self._made: dict[tuple[frozenset[str], frozenset[str]], Path] = {}
        self._lock = threading.Lock()

    def layout_for(self, spec: SandboxSpec) -> Layout:
        """The layout of a step, its mount points made; SandboxError for what cannot be mounted."""
        if spec.root is None:
            raise SandboxError("a step in a sandbox needs a root file system")
        for path in sources(spec):
            if not path.exists():
                raise SandboxError(
                    f"{path} does not exist", why="it was to be mounted in a sandbox", check="store"
                )
        with RootedTree.open_local(spec.root.tree) as root:
            targets = (*skeleton.FIXED, *(mount.target for mount in spec.mounts))
            places = {target: skeleton.resolve_target(root, target) for target in targets}
        files = {places[m.target] for m in spec.mounts if isinstance(m, Bind) and not m.source.is_dir()}
        points = self._mount_points(frozenset(places.values()) - files, frozenset(files))
        return Layout(points, places.__getitem__, confinement.masked_paths(), self._directory)

    def _mount_points(self, directories: frozenset[str], files: frozenset[str]) -> Path:
        with self._lock:
            made = self._made.get((directories, files))
            if made is None:
                made = self._directory / f"mount-points-{len(self._made) + 1}"
                made = self._make_or_reuse(made, directories, files)
                self._made[directories, files] = made
            return made

    def _make_or_reuse(self, path: Path, directories: frozenset[str], files: frozenset[str]) -> Path:
        """The mount points, where they are kept or else at `path`."""
        kept = self._kept_path(directories, files)
        wanted = {kept / name.strip("/") for name in directories | files} if kept else set()
        if kept and all(each.exists() for each in wanted):
            with suppress(OSError):
                if time.time() - kept.stat().st_mtime > _UNUSED / 10:
                    os.utime(kept)
            return kept
        skeleton.make_mount_points(path, directories=directories, files=files, owner=self._owner)
        if kept:
            with suppress(OSError):  # it is on another file system, or another command was first
                path.rename(kept)
                return kept
        return path

    def _kept_path(self, directories: frozenset[str], files: frozenset[str]) -> Path | None:
        """Where these mount points are kept, or are to be; None where they are not."""
        if self._kept is None:
            return None
        text = repr((self._owner, sorted(directories), sorted(files))).encode(errors="surrogateescape")
        place = self._kept / hashlib.sha256(text).hexdigest()[:_HASH_LENGTH]
        with suppress(OSError):
            self._kept.mkdir(mode=0o755, exist_ok=True)
            if place.exists() or len(os.listdir(self._kept)) < _MOST:  # noqa: PTH208 -- only how many
                return place
        return None
