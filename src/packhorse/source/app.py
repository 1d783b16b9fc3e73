"""① The application directory as handed in: what of it is not part of the source.

Nothing is copied where the kernel can show it to the sandbox's user: what is left out is then hidden by
whiteouts in an overlay above the directory. Called by `build.plan` and `build.execute`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from packhorse.base import cloning, files
from packhorse.base.diskspace import FULL, find_shortage
from packhorse.errors import DiskFull, HostError, InputError

_SHOWN = 3

_SAID_OF_GONE = tuple(f"[Errno {number}]" for number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR))
"""How shutil says that something is not there any more, or of another kind now."""


def check(path: Path) -> Path:
    """The application directory, absolute; raises InputError when there is none to build from."""
    resolved = files.resolve(path)
    if resolved is None:
        raise InputError(
            f"there is no {path}", why="--path names the directory with the source", fix="check --path"
        )
    if not resolved.is_dir():
        raise InputError(f"{path} is not a directory", why="--path names the directory with the source")
    try:
        empty = not any(resolved.iterdir())
    except OSError as error:
        raise InputError(f"{path} cannot be read", why=error.strerror or str(error)) from error
    if empty:
        raise InputError(f"{path} is empty", why="there is no source to build from", fix="check --path")
    return resolved


def copy(app: Path, target: Path, owner: tuple[int, int], excluded: Sequence[str] = ()) -> None:
    """Copies the source to the new directory `target` as `owner`'s, where it cannot be shown as if it were.

    Links stay links, pipes pipes, and modes stay; the paths `excluded` are not copied, nor are sockets and
    devices, which no layer has, nor what goes from it meanwhile. Raises DiskFull; HostError when it cannot be
    copied.
    """
    hidden = {str(app / path) for path in excluded}

    def ignore(directory: str, names: list[str]) -> list[str]:
        paths = {name: Path(directory, name) for name in names}
        return [name for name, path in paths.items() if str(path) in hidden or not _is_supported(path)]

    try:
        _copy_tree(app, target, ignore)
        for directory, directories, files in os.walk(target):
            for name in (".", *directories, *files):
                _set_owner(Path(directory, name), owner)
    except shutil.Error as error:
        _raise_if_full(target, error)
        raise HostError(
            "the source cannot be copied",
            why="\n".join(str(why) for _, _, why in error.args[0][:_SHOWN]),
            fix="give the building user the right to read it, or move it elsewhere",
        ) from error
    except OSError as error:
        _raise_if_full(target, error)
        raise HostError("the source cannot be copied", why=str(error)[:500]) from error


def _raise_if_full(target: Path, error: OSError) -> None:
    if why := find_shortage(target.parent):
        raise DiskFull(f"a copy of the source at {target}", why=why) from error


def _copy_tree(app: Path, target: Path, ignore: Callable[[str, list[str]], list[str]]) -> None:
    try:
        shutil.copytree(app, target, symlinks=True, ignore=ignore, copy_function=_copy)
    except shutil.Error as error:
        # Of the source itself that is no answer.
        failed = [one for one in error.args[0] if Path(one[0]) == app or not one[2].startswith(_SAID_OF_GONE)]
        if failed:
            raise shutil.Error(failed) from error


def _is_supported(path: Path) -> bool:
    """Whether it is of a kind that layers have; a device that is read may have no end."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


def _copy(source: str, target: str) -> None:
    if Path(source).is_fifo():
        os.mkfifo(target)
        shutil.copymode(source, target)
        return
    with Path(source).open("rb") as original, Path(target).open("xb") as made:
        cloning.copy_content(original.fileno(), made.fileno())
    shutil.copystat(source, target)


def _set_owner(path: Path, owner: tuple[int, int]) -> None:
    """Changes the owner and keeps the mode, of which chown(2) takes the setuid and setgid bits away."""
    mode = path.lstat().st_mode
    os.chown(path, *owner, follow_symlinks=False)
    if not stat.S_ISLNK(mode):
        path.chmod(stat.S_IMODE(mode))


def make_whiteouts(app: Path, paths: Sequence[str], target: Path) -> None:
    """Makes in `target` the overlay layer that hides `paths` of `app`; needs no privilege (Linux 5.8).

    A directory above one has the mode that it has in `app`. Raises HostError where the file system cannot
    hold whiteouts, and OSError where it is full.
    """
    modes = {"": 0}
    for path in paths:
        if not os.path.lexists(app / path):
            continue  # it has gone since it was found
        above = path.rpartition("/")[0]
        try:
            _make_directories(app, above, target, modes)
            os.mknod(target / path, 0o020000, os.makedev(0, 0))
        except OSError as error:
            if error.errno in FULL:
                raise
            raise HostError(
                f"{path} cannot be left out of the source",
                why=f"the store's file system does not take overlay whiteouts: {error.strerror}",
                fix="put the store on another file system (PACKHORSE_HOME)",
                check="overlay",
            ) from error
    # Whiteouts can only be made in a directory that this user may write to.
    for above, mode in modes.items():
        if above:
            (target / above).chmod(mode)


def _make_directories(app: Path, path: str, target: Path, modes: dict[str, int]) -> None:
    """Makes `path` and what is above it, and notes in `modes` which mode each is to have."""
    missing = []
    while path not in modes:
        missing.append(path)
        path = path.rpartition("/")[0]
    for each in reversed(missing):
        modes[each] = stat.S_IMODE((app / each).lstat().st_mode)
        (target / each).mkdir(mode=0o700)
