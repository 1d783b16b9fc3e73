"""Many directories of buildpacks as one mount: each takes bubblewrap the longer the more there are already.

A hundred buildpacks that are asked of a source would else be ten thousand mounts. Called by
`build.execute` for what `buildpacks` has found.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from packhorse.base.rooted import Rooted
from packhorse.base.step import Bind, Mount, Overlay
from packhorse.base.tree import Kind
from packhorse.store.lease import make_directory
from packhorse.store.merge import OPAQUE

FEW = 8
"""Up to how many directories are mounted one by one."""

PLACE = "/cnb/buildpacks"

_FILES = 200
_BYTES = 1 << 20


def together(binds: Sequence[Bind], root: Path, scratch: Path) -> tuple[Mount, ...]:
    """Mounts that show what `binds` do below `PLACE` of the builder's `root`; they are `binds` where few.

    Small directories are copied below `scratch` for it, large ones still mounted one by one.
    """
    directory = root / PLACE.lstrip("/")
    if len(binds) <= FEW or not _are_plain(root, [bind.target for bind in binds]):
        return tuple(binds)
    copies = scratch / "buildpacks"
    make_directory(copies)
    others: list[Bind] = []
    for bind in {bind.target: bind for bind in binds}.values():
        place = copies / bind.target.removeprefix(f"{PLACE}/")
        make_directory(place.parent)
        if _is_small(bind.source):
            shutil.copytree(bind.source, place, symlinks=True)
            if os.path.lexists(directory / place.relative_to(copies)):
                os.setxattr(place, OPAQUE, b"y")  # or what the builder has would be seen through it
        else:
            make_directory(place)
            others.append(bind)
    return (Overlay((directory, copies), PLACE), *others)


def _are_plain(root: Path, targets: Sequence[str]) -> bool:
    """Whether the builder has buildpacks where they belong, and none of these behind a link."""
    with Rooted.local(root) as tree:
        above = [tree.stat(path) for path in ("/cnb", PLACE)]
        beside = [tree.stat(target.rpartition("/")[0]) for target in targets]
    return None not in above and all(
        node is None or node.kind is Kind.DIRECTORY for node in (*above, *beside)
    )


def _is_small(top: Path) -> bool:
    """Whether it is soon copied: few files and bytes, and nothing that cannot be copied."""
    count = size = 0
    for here, directories, files in os.walk(top):
        for name in (*directories, *files):
            status = Path(here, name).lstat()
            count, size = count + 1, size + (status.st_size if stat.S_ISREG(status.st_mode) else 0)
            if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
                return False
        if count > _FILES or size > _BYTES:
            return False
    return True
