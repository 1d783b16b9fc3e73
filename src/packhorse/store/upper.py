"""③ The upper directory of the overlay at `/layers`: what the buildpacks of one build wrote.

What is in it was written by buildpacks: no link in it is followed. Called by overlay. How the kernel marks
what it hides is `merge`'s.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from packhorse.base import entries
from packhorse.errors import TreeError
from packhorse.store import merge
from packhorse.store.fault import map_errors


class Change(Enum):
    """What the upper says of a layer's directory."""

    NONE = "nothing of it was written"
    GONE = "it was removed"
    NEW = "it is here, and hides what a lower has"
    PART = "it is here, over what a lower has"


class Upper:
    """The upper directory at `path`; a layer in it is named by its buildpack's directory and its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def change(self, buildpack: str, name: str) -> Change:
        """What was done to a layer; raises TreeError when a directory was replaced by something else."""
        with self._open() as top:
            status = _stat(top, buildpack)
            if status is None or merge.is_whiteout(status):
                return Change.NONE if status is None else Change.GONE
            _require_directory(status, f"/layers/{buildpack}")
            with _open_buildpack(top, buildpack) as directory:
                status = _stat(directory, name)
                if status is None or merge.is_whiteout(status):
                    return Change.NONE if status is None else Change.GONE
                _require_directory(status, f"/layers/{buildpack}/{name}")
                return Change.NEW if merge.is_opaque(directory, name) else Change.PART

    def clear_opaque(self, buildpack: str) -> bool:
        """Takes the mark off a buildpack's directory that hides all its layers in lowers; False when it has
        none.

        The kernel sets it on a directory that replaced a removed one, and on new ones for its own
        convenience.
        """
        with self._open() as top:
            if not merge.is_opaque(top, buildpack):
                return False
            merge.clear_opaque(top, buildpack)
            return True

    def compare(self, buildpack: str, is_same: Callable[[int], bool]) -> bool:
        """What `is_same` says of the directory, a descriptor, in which a buildpack's layers are."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            return is_same(directory)

    def move_out(self, buildpack: str, name: str, target: int) -> None:
        """Moves a layer out of the upper into the directory `target`, without the overlay's marks."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            mode = stat.S_IMODE(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
            # Moving a directory changes its "..", for which its owner needs to be allowed to write it.
            os.chmod(name, mode | stat.S_IRWXU, dir_fd=directory)
            os.rename(name, name, src_dir_fd=directory, dst_dir_fd=target)
            merge.strip_overlay_xattrs(target, name)
            os.chmod(name, mode, dir_fd=target)

    def move_onto(self, buildpack: str, name: str, target: int) -> int:
        """Moves a layer's changes out of the upper onto `target`, the tree they were made to; counts them."""
        with self._open() as top, _open_buildpack(top, buildpack) as directory:
            count = merge.apply_entry(directory, name, target)
            merge.strip_overlay_xattrs(target, name)
            entries.remove(directory, name)
            return count

    def clear(self, buildpack: str, name: str) -> None:
        """Removes whatever the upper has of a layer, also that it was removed."""
        with self._open() as top:
            status = _stat(top, buildpack)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                entries.remove(top, buildpack)
            elif status is not None:
                with _open_buildpack(top, buildpack) as directory:
                    entries.remove(directory, name)

    @contextmanager
    def _open(self) -> Iterator[int]:
        with map_errors(self.path), merge.open_directory(self.path) as descriptor:
            yield descriptor


@contextmanager
def _open_buildpack(top: int, buildpack: str) -> Iterator[int]:
    """A descriptor of a buildpack's directory, made its owner's to use: no layer depends on its mode."""
    status = os.stat(buildpack, dir_fd=top, follow_symlinks=False)
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(buildpack, stat.S_IMODE(status.st_mode) | stat.S_IRWXU, dir_fd=top)
    with merge.open_subdirectory(top, buildpack) as directory:
        yield directory


def _stat(directory: int, name: str) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


def _require_directory(status: os.stat_result, path: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise TreeError(
            f"{path} is not a directory", why=f"a buildpack left {stat.filemode(status.st_mode)} there"
        )
