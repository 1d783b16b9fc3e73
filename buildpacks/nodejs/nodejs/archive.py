"""Unpacks an npm package archive into a layer: regular files only, with the same modes on every machine.

Called by `nodejs.runtime`. npm has verified the archive by then; what it holds may still be hostile to paths.
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from packhorse.errors import FormatError

Choose = Callable[[PurePosixPath], Path | None]


def unpack(archive: Path, choose: Choose) -> None:
    """Writes each file of `archive` to where `choose` puts it; None leaves it out.

    `choose` gets the path below the archive's top folder. Files become 0755 if their owner may execute them,
    else 0644. Links and special files are skipped, as npm does. Raises FormatError for a path that leads
    outside or an archive that cannot be read.
    """
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                inner = _below_top(member.name, archive)
                target = choose(inner)
                content = tar.extractfile(member)
                if target is None or content is None:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                target.chmod(0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FormatError(f"cannot unpack {archive.name}", why=str(error)) from error


def _below_top(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise FormatError(f"{archive.name} has a file outside its folder: {name}")
    return path.relative_to(path.parts[0])
