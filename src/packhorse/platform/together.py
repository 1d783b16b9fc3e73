"""Many directories of buildpacks as one mount: each takes bubblewrap the longer the more there are already.

A hundred buildpacks that are asked of a source would else be ten thousand mounts. Called by
`platform.building` for what `buildpacks` has found.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from packhorse.base.rooted import Rooted
from packhorse.base.step import Bind, Mount, Overlay
from packhorse.base.tree import Kind

FEW = 8
"""Up to how many directories are mounted one by one."""

PLACE = "/cnb/buildpacks"

_FILES = 200
_BYTES = 1 << 20
_OPAQUE = "user.overlay.opaque"


def together(binds: Sequence[Bind], root: Path, scratch: Path) -> tuple[Mount, ...]:
    """Mounts that show what `binds` do below `PLACE` of the builder's `root`; they are `binds` where few.

    Small directories are copied below `scratch` for it, large ones still mounted one by one.
    """
    directory = root / PLACE.lstrip("/")
    if len(binds) <= FEW or not _is_plain(root):
        return tuple(binds)
    copies = _made(scratch / "buildpacks")
    others: list[Bind] = []
    for bind in {bind.target: bind for bind in binds}.values():
        place = copies / bind.target.removeprefix(f"{PLACE}/")
        _made(place.parent)
        if _is_small(bind.source):
            shutil.copytree(bind.source, place, symlinks=True)
            if os.path.lexists(directory / place.relative_to(copies)):
                os.setxattr(place, _OPAQUE, b"y")  # or what the builder has would be seen through it
        else:
            _made(place)
            others.append(bind)
    return (Overlay((directory, copies), PLACE), *others)


def _is_plain(root: Path) -> bool:
    """Whether the builder has buildpacks where they belong, and not behind a link."""
    with Rooted.local(root) as tree:
        nodes = (tree.stat(path) for path in ("/cnb", PLACE))
        return all(node is not None and node.kind is Kind.DIRECTORY for node in nodes)


def _is_small(top: Path) -> bool:
    count = size = 0
    for here, directories, files in os.walk(top):
        count += len(directories) + len(files)
        size += sum(Path(here, name).lstat().st_size for name in files)
        if count > _FILES or size > _BYTES:
            return False
    return True


def _made(path: Path) -> Path:
    if not path.is_dir():
        path.mkdir()
        path.chmod(0o755)  # whatever the umask: the sandbox reads it as somebody else
    return path
