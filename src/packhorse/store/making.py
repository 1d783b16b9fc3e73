"""How a store comes to be: made, recognised, brought up to this version. Called by `Store.open`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from packhorse.errors import StoreError
from packhorse.image.model import Index
from packhorse.store import images, record
from packhorse.store.fault import map_errors
from packhorse.store.lease import Lease, gate_path, lock_file, make_directory

VERSION = 2
"""Of what is in a store. 1 had trees that are not recognised now: they are made anew, or read once."""

_DIRECTORIES = (
    *("blobs", "blobs/sha256", "layers", "trees", "roots", "kept", "caches"),
    *("leases", "scratch", "locks", "spare"),
)
_FILES = {
    "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
    "index.json": Index.of(()).raw,
    "images.json": images.EMPTY,
}
_OTHERS = {"version", "gate"}
_SPARE_FILES, _SPARE_BYTES = 8, 1 << 17


def open_or_create(path: Path, *, frees: bool = False) -> Lease:
    """A lease in the store at `path`, which is made if there is none; StoreError when that cannot be used."""
    with map_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"the store at {path} belongs to another user",
            why=f"its owner is user {status.st_uid}, this is user {os.geteuid()}",
            fix="choose another place for the store, or run as that user",
        )
    version = _read_version(path)
    if version is None:
        _create_directories(path)
    elif status.st_mode & 0o077:
        # Layers may have setuid files of this user's, which others must not come to.
        with suppress(OSError):
            path.chmod(0o700)
    if frees:
        _release_reserve(path)
    lease = Lease.acquire(path)
    if version is None or (version < VERSION and lease.descriptor is not None):
        try:
            with lock_file(gate_path(path)):
                _complete(lease)
        except BaseException:
            lease.close()
            raise
    return lease


def reserve_space(path: Path) -> None:
    """Lays files aside for commands that free space, so that they can write on a full disk; if it is not."""
    for number in range(_SPARE_FILES):
        with suppress(OSError), (path / "spare" / f"{number}").open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, _SPARE_BYTES)


def _release_reserve(path: Path) -> None:
    for number in range(_SPARE_FILES):
        with suppress(OSError):
            (path / "spare" / f"{number}").unlink()


def _read_version(path: Path) -> int | None:
    """The version of a store, None where one is still to be made; StoreError for one that cannot be used."""
    file = path / "version"
    with map_errors(file):
        try:
            text = file.read_bytes().strip()
        except FileNotFoundError:
            return None
    version = int(text) if text.isdigit() and len(text) < 9 else 0
    if not 1 <= version <= VERSION:
        raise StoreError(
            f"the store at {path} has another version",
            why=f"it is version {text[:20].decode(errors='replace')!r}, this packhorse knows 1 to {VERSION}",
            fix="use the packhorse that made it, or choose another place for the store",
        )
    return version


def _create_directories(path: Path) -> None:
    """Makes the directories of a store, unless `path` has other things in it."""
    with map_errors(path):
        ours = {*_DIRECTORIES, *_FILES, *_OTHERS}
        others = [entry.name for entry in path.iterdir() if entry.name not in ours]
        index = path / "index.json"
        if index.exists() and index.read_bytes() != _FILES["index.json"]:
            others.append("index.json")
        if others:
            raise StoreError(
                f"{path} is not a store",
                why=f"it has no version file, and other things in it: {', '.join(sorted(others)[:5])}",
                fix="choose an empty or a new directory for the store",
            )
        path.chmod(0o700)
        for name in _DIRECTORIES:
            make_directory(path / name)
        record.sync_directory(path / "blobs")


def _complete(lease: Lease) -> None:
    """Makes the rest of a store, or brings an earlier version up to this; the caller holds the gate."""
    path = lease.store
    version = _read_version(path)
    if version == VERSION:
        return
    for name, content in _FILES.items():
        if not (path / name).exists():
            record.write_bytes(lease, path / name, content)
    with map_errors(path):
        make_directory(path / "spare")
    if version == 1:
        # Unfinished files had names of their own, and locks were files of their own.
        for pattern in ("**/.*~", "locks/*-*"):
            for file in path.glob(pattern):
                file.unlink(missing_ok=True)
    reserve_space(path)
    # The version comes last: with it the store is whole.
    record.write_bytes(lease, path / "version", b"%d\n" % VERSION)
