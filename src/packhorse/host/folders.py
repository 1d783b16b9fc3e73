"""Finds packhorse's folders on this machine and their free space, and makes scratch in /var/tmp.

`Folders` reads the environment; cli calls it once. `require_space` fails early: without it a build
would find the disk full after minutes of downloading or compiling.

`private_directory` makes the directories in which `builder.default` makes the default builder's roots. They
are in /var/tmp, not in TMPDIR or the user's home: mmdebstrap's subordinate ids must reach them, and they hold
1 GB. Their names contain user and process, so that `sweep_scratch` finds what a killed packhorse left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import HostError, PackhorseError, StoreError, UsageError
from packhorse.linux.processes import process_start_id


@dataclass(frozen=True, slots=True)
class Folders:
    """`store` has images and trees, `cache` what can be fetched again, `config` the user's settings."""

    store: Path
    cache: Path
    config: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """The folders below `PACKHORSE_HOME`, or without it in the XDG base directories.

        Raises UsageError if PACKHORSE_HOME is not absolute, or the user has no home directory.
        """
        home = environ.get("PACKHORSE_HOME", "")
        if home:
            root = Path(home)
            if not root.is_absolute():
                raise UsageError(
                    f"PACKHORSE_HOME is not an absolute path: {home!r}",
                    why="it would mean another place in every directory",
                    fix="write the whole path",
                )
            return cls(root / "store", root / "cache", root / "config")
        from platformdirs import PlatformDirs

        folders = PlatformDirs("packhorse", appauthor=False)
        try:
            return cls(folders.user_data_path / "store", folders.user_cache_path, folders.user_config_path)
        except RuntimeError as error:
            raise UsageError(
                "there is no place to keep images",
                why=f"user {os.geteuid()} has no home directory",
                fix="set PACKHORSE_HOME, or HOME",
            ) from error


def count_free_bytes(place: Path) -> int:
    """The bytes that this user can still write to the file system of a directory."""
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize


def require_space(place: Path, needed: int, *, what: str) -> None:
    """Raises StoreError if fewer than `needed` bytes are free at `place`; `what` is what they are for."""
    available = count_free_bytes(place)
    if available < needed:
        raise StoreError(
            f"there is too little room for {what}",
            why=f"{format_bytes(available)} are free at {place}, and it needs {format_bytes(needed)}",
            fix="free some, for instance with packhorse gc, or put the store elsewhere (PACKHORSE_HOME)",
            check="disk",
        )


def format_bytes(count: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


SCRATCH = Path("/var/tmp")
_NAME = re.compile(r"packhorse-(?P<user>[0-9]+)-(?P<maker>(?P<pid>[0-9]+)-[0-9]+)-[0-9a-f]+")

Discard = Callable[[Path], object]
"""Removes a directory tree, including files of other users."""


@contextmanager
def private_directory(discard: Discard) -> Iterator[Path]:
    """A new directory that other users can enter but not list; removed afterwards. Raises HostError."""
    path = SCRATCH / f"packhorse-{os.geteuid()}-{process_start_id()}-{os.urandom(4).hex()}"
    try:
        path.mkdir()
        path.chmod(0o711)
    except OSError as error:
        raise HostError(f"cannot write {SCRATCH}", why=error.strerror or str(error)) from error
    try:
        yield path
    finally:
        discard(path)


def sweep_scratch(discard: Discard) -> None:
    """Removes the directories of packhorse processes that ended. What cannot be removed now is left."""
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError):
        entries = list(os.scandir(SCRATCH))
    for entry in entries:
        with suppress(OSError, PackhorseError):  # another packhorse may remove it at the same time
            if _is_abandoned(entry):
                discard(Path(entry.path))


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is this user's directory and its packhorse process has ended."""
    found = _NAME.fullmatch(entry.name)
    if found is None or int(found["user"]) != os.geteuid():
        return False
    # Any user can make a directory with any name there.
    if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return False
    return process_start_id(found["pid"]) != found["maker"]
