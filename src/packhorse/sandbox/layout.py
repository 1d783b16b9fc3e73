"""Where a step's mounts come from and go to, as found on this machine; asked by `runner` for every step."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from packhorse.base.dataclass import dataclass
from packhorse.base.rooted import Rooted
from packhorse.base.step import Bind, Step
from packhorse.base.userns import IdMap
from packhorse.errors import SandboxError
from packhorse.sandbox import confinement, skeleton
from packhorse.sandbox.sources import sources


@dataclass(frozen=True, slots=True)
class Layout:
    """`place` gives the path at which a target is mounted, `skeleton` the directory with all mount points.

    `masked` are those of the masked paths that exist.
    """

    skeleton: Path
    place: Callable[[str], str]
    masked: Sequence[str] = ()

    def repeated(self, before: Sequence[str], documents: Mapping[int, bytes], after: Sequence[str]) -> str:
        """A shell's line of words, with `documents` to be read from descriptors.

        One has the step's environment, secrets perhaps, and every user can read a command line. OSError.
        """
        words = [shlex.join(before)]
        for number, document in documents.items():
            path = self.skeleton.with_name(f"{self.skeleton.name}-repeated-{number}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(document)
            words.append(f"{number}<{shlex.quote(str(path))}")
        return f"{' '.join(words)} -- {shlex.join(after)}"


class Layouts:
    """Lays out the steps of one build, with mount points below `directory`, for root of `idmap` to see.

    They are the same for most steps, and never written, so those are made once. Safe from several threads.
    """

    def __init__(self, directory: Path, idmap: IdMap) -> None:
        self._directory = directory
        self._owner = (idmap.uids[0].outside, idmap.gids[0].outside)
        self._made: dict[tuple[frozenset[str], frozenset[str]], Path] = {}
        self._lock = threading.Lock()

    def of(self, step: Step) -> Layout:
        """The layout of a step, its mount points made; SandboxError for what cannot be mounted."""
        if step.root is None:
            raise SandboxError("a step in a sandbox needs a root file system")
        for path in sources(step):
            if not path.exists():
                raise SandboxError(
                    f"{path} does not exist", why="it was to be mounted in a sandbox", check="store"
                )
        with Rooted.local(step.root.tree) as root:
            targets = (*skeleton.FIXED, *(mount.target for mount in step.mounts))
            places = {target: skeleton.place(root, target) for target in targets}
        files = {places[m.target] for m in step.mounts if isinstance(m, Bind) and not m.source.is_dir()}
        points = self._points(frozenset(places.values()) - files, frozenset(files))
        return Layout(points, places.__getitem__, confinement.masked())

    def _points(self, directories: frozenset[str], files: frozenset[str]) -> Path:
        with self._lock:
            made = self._made.get((directories, files))
            if made is None:
                made = self._directory / f"mount-points-{len(self._made) + 1}"
                skeleton.build(made, directories=directories, files=files, owner=self._owner)
                self._made[directories, files] = made
            return made
