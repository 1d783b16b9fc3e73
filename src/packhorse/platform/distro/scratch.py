"""Where the default builder's roots are made: a directory in /var/tmp for each, removed whatever happens.

Not TMPDIR and not below the user's home: mmdebstrap's subordinate ids must reach it, and it holds 1 GB. Its
name says whose it is, so that what a killed packhorse leaves is found by the next one. Called by
`default_builder` and `wiring`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from packhorse.base import proc
from packhorse.errors import HostError, PackhorseError

SCRATCH = Path("/var/tmp")
_NAME = re.compile(r"packhorse-(?P<user>[0-9]+)-(?P<maker>(?P<pid>[0-9]+)-[0-9]+)-[0-9a-f]+")

Discard = Callable[[Path], object]
"""Removes a tree, whoever its files belong to."""


@contextmanager
def private_directory(discard: Discard) -> Iterator[Path]:
    """A new directory that others may pass through and not read; removed afterwards. HostError."""
    path = SCRATCH / f"packhorse-{os.geteuid()}-{proc.process_start_id()}-{secrets.token_hex(4)}"
    try:
        path.mkdir()
        path.chmod(0o711)
    except OSError as error:
        raise HostError(f"cannot write {SCRATCH}", why=error.strerror or str(error)) from error
    try:
        yield path
    finally:
        discard(path)


def sweep(discard: Discard) -> None:
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
    return proc.process_start_id(found["pid"]) != found["maker"]
