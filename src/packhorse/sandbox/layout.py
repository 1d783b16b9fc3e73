"""Where a step's mounts come from and go to, as found on this machine; made by `runner` for every step."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def lay_out(step: Step, directory: Path, idmap: IdMap) -> Layout:
    """Makes the step's mount points in the new `directory`; SandboxError for what cannot be mounted."""
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
    skeleton.build(
        directory,
        directories=set(places.values()) - files,
        files=files,
        owner=(idmap.uids[0].outside, idmap.gids[0].outside),
    )
    return Layout(directory, places.__getitem__, confinement.masked())
