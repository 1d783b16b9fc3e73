"""Takes things away from a source or a layer, whatever they are. Called wherever something is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packhorse.errors import InputError


def delete(path: Path) -> None:
    """Removes a file, a directory with all in it, or a link and not what it leads to, if it is there."""
    if path.is_dir() and not path.is_symlink():
        import shutil  # slow to import, and mostly there is nothing to delete

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """Turns an OSError of the block into the InputError that `what` cannot be left out of the image."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{what} cannot be left out of the image",
            why=str(error),
            fix="let it belong to who builds, as the rest of the source",
        ) from error
