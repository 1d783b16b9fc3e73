"""What build scripts write into a layer of modules: found by comparing its files before and after them.

On the arrow plan → layers. Called by `nodejs.modules`. A layer that is kept holds what was installed and no
more: what a script left there would be lost for the image, and another build's scripts would find it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from . import residue
from .caches import EMITTED, FOLDERS

Index = Mapping[str, tuple[int, int, int]]
"""Mode, size and time of change of each file by its path. Not the time of the inode: other builds that link
to the same file change that one."""


def index(layer: Path, members: Collection[str]) -> Index:
    """All files below `layer`, if it is there, but its projects' caches and the package managers' records."""
    spared = {str(PurePosixPath(place, folder)) for place in ("", *members) for folder in FOLDERS}
    found: dict[str, tuple[int, int, int]] = {}
    folders = [""] if layer.is_dir() else []
    while folders:
        above = folders.pop()
        with os.scandir(layer / above) as entries:
            for entry in entries:
                path = f"{above}/{entry.name}" if above else entry.name
                if path in spared:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                status = entry.stat(follow_symlinks=False)
                found[path] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def written(layer: Path, before: Index, now: Index) -> tuple[str, ...]:
    """The files that were added, changed or removed; added records of what is emitted are removed here."""
    found = []
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) == now.get(path) or _is_record(path):
            continue
        if path.endswith(EMITTED) and path not in before:
            (layer / path).unlink()
        else:
            found.append(path)
    return tuple(found)


def _is_record(path: str) -> bool:
    return any(PurePosixPath(path).match(f"node_modules/{pattern}") for pattern in residue.RECORDS)
