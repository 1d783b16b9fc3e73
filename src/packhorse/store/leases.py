"""Protects what a running command uses in the store, and marks the files it has not finished.

Every open `Store` holds one `Lease`: a file below `leases/`. It is locked as long as the process, or a
child that works for it, lives. Its lines name what the process uses, as paths inside the store. `gc` reads
the lines of the held leases, and removes the unfinished files of the others. Unfinished files carry their
lease's name, so no command takes the remains of a killed process for complete files.

`gate_path` is the lock between leases and `gc`: shared while a lease gets a line, exclusive while `gc`
chooses. A command adds its line before it looks for a file, so a file that it finds stays.

The other modules of this folder also use this one's functions: `map_errors` turns OSError into StoreError,
and `read` and `write` handle small JSON records that are replaced whole.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from packhorse.base.digest import Digest
from packhorse.base.files import FULL
from packhorse.errors import DiskFull, StoreError
from packhorse.fs.walk import RemovalBudget

REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EXDEV, errno.EMLINK}
_FILES = {errno.EMFILE, errno.ENFILE}
_BROKEN = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODEV, errno.ENXIO, errno.ESTALE}


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Turns an OSError in the block into a StoreError that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        raise make_error(error, path) from error


def is_about(error: OSError, path: Path) -> bool:
    """Whether an OSError names a file below `path`, or is one that only disks cause."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str)]
    return any(Path(name).is_relative_to(path) for name in names) or error.errno in FULL | _BROKEN


def make_error(error: OSError, path: Path) -> StoreError:
    """The StoreError for an OSError at `path`."""
    why = error.strerror or str(error)
    if error.errno in FULL:
        return DiskFull(f"the store at {path}", why=why)
    if error.errno in REFUSED:
        fix = "make it writable for this user, or choose another place for the store"
        return StoreError(f"the store at {path} cannot be written", why=why, fix=fix, check="store")
    if error.errno in _UNABLE:
        fix = "choose a place for the store on a local file system, such as ext4, xfs, btrfs or tmpfs"
        return StoreError(
            f"the file system at {path} lacks a function that a store needs", why=why, fix=fix, check="store"
        )
    if error.errno in _FILES:
        fix = "allow more open files: ulimit -n 1024"
        return StoreError(f"the store cannot be used at {path}", why=why, fix=fix, check="limits")
    fix = ""
    if error.errno in _BROKEN:
        fix = "the disk or its file system has failed: read `dmesg`, and check the disk first"
    return StoreError(f"the store cannot be used at {path}", why=why, fix=fix, check="store")


TREES = ("kept", "trees", "roots")
"""The directories whose subdirectories have trees in them."""

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2), on 64-bit Linux


class Lease:
    """Keeps what an open store uses; `scratch` is its own directory for unfinished files.

    In a read-only store it keeps nothing: `descriptor` is None, and `refusal` says why.
    `removal_budget` limits how much the command removes itself (`store.trash.trash`); with None it removes
    everything. `trash` has the paths that are still to be removed.
    """

    def __init__(self, store: Path, name: str, descriptor: int | None, refusal: str = "") -> None:
        self.store = store
        self.name = name
        self.scratch = store / "scratch" / name
        self.descriptor = descriptor
        self.unneeded: set[str] = set()
        self.trash: set[Path] = set()
        self.removal_budget: RemovalBudget | None = None
        self._refusal = refusal
        self._pinned: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def acquire(cls, store: Path, *, purpose: str = "") -> Self:
        """Makes and locks a new lease in the store at `store`. `purpose` ends its name. Raises StoreError."""
        name = f"{os.getpid()}-{os.urandom(4).hex()}{purpose and '-'}{purpose}"
        path = store / "leases" / name
        try:
            # With the gate, gc cannot take the new file for that of an ended command before it is locked.
            with lock_file(gate_path(store), shared=True), map_errors(path):
                return cls(store, name, _create_locked_file(path))
        except StoreError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in REFUSED:
                return cls(store, name, None, error.why)
            raise

    def pin(self, *paths: str) -> None:
        """Keeps `gc` from removing these paths inside the store until the lease ends, even future files."""
        with self._lock:
            new = [path for path in paths if path not in self._pinned]
            if not new or self.descriptor is None:
                return
            with lock_file(gate_path(self.store), shared=True), map_errors(self.store):
                # A full disk may have cut an earlier line short; the first character ends that line.
                _append(self.descriptor, "".join(f"\n{path}\n" for path in new).encode())
            self._pinned.update(new)

    def note_unneeded(self, paths: set[str]) -> None:
        """Notes paths that may no longer be needed after this command; `Store.close` checks them."""
        with self._lock:
            self.unneeded |= paths

    @contextmanager
    def lock(self, kind: str, digest: Digest) -> Iterator[None]:
        """Holds the lock for making the object `digest`, against other threads and processes.

        A thread takes kinds in the order "tree", "layer", "kept". A lock is a byte of one file, so released
        locks leave no files.
        """
        path = self.store / "locks" / kind
        if self.descriptor is None:
            yield
            return
        with map_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with map_errors(path):
                wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, int(digest.hex[:15], 16), 1, 0)
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLKW, wanted)
            yield
        finally:
            os.close(descriptor)

    def temporary_path(self, directory: Path | None = None) -> Path:
        """A path that nobody else uses: in `directory`, with a name that begins with a dot, or in `scratch`.

        Raises StoreError in a read-only store.
        """
        if self.descriptor is None:
            raise StoreError(
                f"the store at {self.store} is read-only",
                why=self._refusal,
                fix="make it writable for this user, or choose another place for the store",
            )
        if directory is not None:
            return directory / f".{self.name}.{os.urandom(4).hex()}"
        with map_errors(self.scratch):
            make_directory(self.scratch)
        return self.scratch / os.urandom(8).hex()

    def close(self) -> None:
        """Ends the lease, and removes the files that were not finished.

        If a path in `trash` still exists, the lease file stays, and the next `sweep` removes the path.
        """
        if self.descriptor is None or self._closed:
            return
        self._closed = True
        if not any(map(os.path.lexists, self.trash)) and _remove_scratch(self.scratch):
            with suppress(OSError):
                (self.store / "leases" / self.name).unlink()
        os.close(self.descriptor)


@contextmanager
def lock_file(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Waits for the flock(2) of `path`, and holds it. Makes the file. Not reentrant. Raises StoreError."""
    with map_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with map_errors(path):
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Makes the directory `path` with mode 0755, whatever the umask, unless it exists. Raises OSError.

    The store itself has mode 0700. Below it, a sandbox's ids must be able to reach the trees.
    """
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(0o755)


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """Opens a directory of the store, or the store itself, which may be a link. Raises StoreError."""
    with map_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def gate_path(store: Path) -> Path:
    """The lock file between leases and `gc`."""
    return store / "gate"


def read_leases(store: Path) -> tuple[dict[str, set[str]], list[Path]]:
    """The held leases, by name, with the paths that each pins; and the files of the leases not held.

    The caller holds the gate exclusively. It removes those files after it has renamed what was theirs.
    """
    leases: dict[str, set[str]] = {}
    dead = []
    for path in sorted((store / "leases").iterdir()):
        pins = _read_pins(path)
        if pins is None:
            dead.append(path)
        else:
            leases[path.name] = pins
    return leases, dead


def is_held(path: Path) -> bool:
    """Whether a process holds the lease of the file `path`. A new one may not count as held yet."""
    return _read_pins(path) is not None


def owner_of(name: str) -> str:
    """The name of the lease in a file name that `Lease.temporary_path(directory)` made."""
    return name[1:].rpartition(".")[0]


def find_unfinished(store: Path) -> Iterator[tuple[Path, str]]:
    """The paths that are unfinished or to be removed, each with the name of its lease. Raises OSError."""
    for path in (store / "scratch").iterdir():
        yield path, owner_of(path.name) if path.name.startswith(".") else path.name
    for kind in TREES:
        yield from ((path, owner_of(path.name)) for path in store.glob(f"{kind}/*/.*"))


def _create_locked_file(path: Path) -> int:
    """Makes and locks a new file. Raises OSError, and leaves no file then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


def _remove_scratch(scratch: Path) -> bool:
    """Removes a lease's own directory with the files in it; returns whether it is gone."""
    try:
        for path in scratch.iterdir():
            if path.is_symlink() or not path.is_dir():
                path.unlink()
        scratch.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # it has a tree, or this user may not remove it
        return False
    return True


def _read_pins(path: Path) -> set[str] | None:
    """The lines of a lease file; None if no process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return set(file.read().splitlines())
    return None


def _append(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: a line that is cut short would keep nothing."""
    while data:
        data = data[os.write(descriptor, data) :]


def read(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None if the file is missing or damaged.

    Commands replace such files only by rename(2), so a file that does not parse is damaged. It counts as
    missing, and the next command that needs its content makes that again. Raises StoreError if the file
    cannot be read.
    """
    with map_errors(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def list_by_time(directory: Path) -> list[tuple[float, Path]]:
    """The files in a directory with their modification times, the oldest first. Raises OSError.

    It skips files that another command removes meanwhile.
    """
    found = []
    for path in directory.iterdir():
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path))
    return sorted(found)


def write(lease: Lease, path: Path, fields: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replaces the file `path` by a JSON object, atomically. Raises StoreError.

    A file that is not `durable` may be missing or empty after a crash of the machine; then it counts as
    missing.
    """
    write_bytes(lease, path, json.dumps(fields, indent=1).encode() + b"\n", durable=durable)


def write_bytes(lease: Lease, path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replaces the file `path` by `data`, as `write` does."""
    temporary = lease.temporary_path()
    with map_errors(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if durable:
            sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
