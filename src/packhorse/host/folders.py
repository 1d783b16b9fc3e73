"""Where packhorse keeps its things on this machine.

Called by the mains, once; one of the edges that read the environment.

Says early that a disk is too small for what is about to fill it.

Else that shows after minutes of downloading or compiling. Called by `building` and `default_builder`.

Where the default builder's roots are made: a directory in /var/tmp for each, removed whatever happens.

Not TMPDIR and not below the user's home: mmdebstrap's subordinate ids must reach it, and it holds 1 GB. Its
name says whose it is, so that what a killed packhorse leaves is found by the next one. Called by
`default_builder` and `wiring`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from packhorse.base.dataclass import dataclass
from packhorse.errors import HostError, PackhorseError, StoreError, UsageError
from packhorse.linux.processes import process_start_id


@dataclass(frozen=True, slots=True)
class Folders:
    """`store` holds images and trees, `cache` what can be fetched again, `config` what the user wrote."""

    store: Path
    cache: Path
    config: Path

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Self:
        """`PACKHORSE_HOME` moves all three below one directory; otherwise the XDG base directories rule.

        Raises UsageError for a PACKHORSE_HOME that is not absolute.
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


def free(place: Path) -> int:
    """The bytes that this user may still write to the file system of a directory."""
    room = os.statvfs(place)
    return room.f_bavail * room.f_frsize


def require(place: Path, needed: int, *, what: str) -> None:
    """Raises StoreError where there is less room than `what` certainly needs."""
    there = free(place)
    if there < needed:
        raise StoreError(
            f"there is too little room for {what}",
            why=f"{format_bytes(there)} are free at {place}, and it needs {format_bytes(needed)}",
            fix="free some, for instance with packhorse gc, or put the store elsewhere (PACKHORSE_HOME)",
            check="disk",
        )


def format_bytes(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


SCRATCH = Path("/var/tmp")
_NAME = re.compile(r"packhorse-(?P<user>[0-9]+)-(?P<maker>(?P<pid>[0-9]+)-[0-9]+)-[0-9a-f]+")

Discard = Callable[[Path], object]
"""Removes a tree, whoever its files belong to."""


@contextmanager
def private_directory(discard: Discard) -> Iterator[Path]:
    """A new directory that others may pass through and not read; removed afterwards. HostError."""
    path = SCRATCH / f"packhorse-{os.geteuid()}-{process_start_id()}-{secrets.token_hex(4)}"
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
    """Removes the directories whose packhorse is gone; what cannot be removed stays for the next time."""
    entries: list[os.DirEntry[str]] = []
    with suppress(OSError):
        entries = list(os.scandir(SCRATCH))
    for entry in entries:
        with suppress(OSError, PackhorseError):  # others may sweep at the same time
            if _is_abandoned(entry):
                discard(Path(entry.path))


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    """Whether it is a directory of this user's whose packhorse is gone."""
    found = _NAME.fullmatch(entry.name)
    if found is None or int(found["user"]) != os.geteuid():
        return False
    # Everybody can make a directory there, with any name.
    if not entry.is_dir(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_uid != os.geteuid():
        return False
    return process_start_id(found["pid"]) != found["maker"]
