"""The use case behind `packhorse buildpack stage`: a buildpack with its SDK and the files it would download.

`platform.package` does the staging; `sdk.dependencies` has the form in which a buildpack finds its files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from packhorse.base.files import read, resolve
from packhorse.buildpack.descriptor import Descriptor
from packhorse.errors import InputError, NotFoundError
from packhorse.platform import bundle, package
from packhorse.sdk import dependencies

Files = Sequence[tuple[str, str, Path]]
"""The name and version of each file, and where it is."""

FOLDER = "dependencies"


def stage(source: str, target: Path, files: Files) -> None:
    """Copies the buildpack `source`, a directory or the id of a bundled one, to the new directory `target`.

    It is there whole or not at all. Raises InputError when it cannot be copied or `target` exists,
    NotFoundError when there is none.
    """
    directory = _directory(source)
    if target.exists() or target.is_symlink():
        raise InputError(f"{target} exists", why="a staged buildpack is a directory of its own")
    if target.absolute().resolve().is_relative_to(directory):
        raise InputError(f"{target} is inside of {source}", fix="stage it elsewhere")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            made = Path(folder, "staged")
            if package.needs_staging(directory):
                package.stage(directory, made)
            else:
                shutil.copytree(directory, made, symlinks=True)
            if files:
                dependencies.write_dependencies(made / FOLDER, files)
            made.rename(target)
    except (OSError, shutil.Error) as error:
        raise InputError(f"{source} cannot be staged", why=str(error)[:500]) from error


def _directory(source: str) -> Path:
    directory = resolve(Path(source)) if source else None
    if directory is not None:
        file = directory / "buildpack.toml"
        if resolve(file) is None:
            raise InputError(f"{source} is not a buildpack", why=f"there is no {file}")
        return directory
    bundled = {}
    for path in bundle.buildpacks():
        descriptor = Descriptor.parse(read(path / "buildpack.toml"), str(path))
        bundled[descriptor.ref.id] = path
    if source not in bundled:
        raise NotFoundError(
            f"there is no buildpack {source!r}",
            why=f"there is no such directory; packhorse itself has {', '.join(bundled)}",
        )
    return bundled[source]
