"""Stores bytes by their digest, as an OCI layout does: `blobs/sha256/<hex>`.

The blobs are manifests, configs, compressed layers and uncompressed layers. The diff ID of a layer is the
digest of its uncompressed bytes, so that both forms fit. This module does not know what a blob is for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from packhorse.base.digest import Digest
from packhorse.base.threads import Pipeline, thread_pool
from packhorse.errors import FormatError, StoreError
from packhorse.linux.syscalls import start_writeback
from packhorse.store.leases import Lease, map_errors, sync_directory

CHUNK = 1 << 20
"""How much is read at once, in bytes."""

_SMALL = 1 << 20
"""Up to how many bytes a blob is in memory before it is written."""

_CHECK_TIMEOUT = 5.0
"""Seconds that who checks a blob is waited for when nobody wants to know any more."""

_BATCH = 8 << 20
"""Bytes after which the disk is told to begin, so that there is less to wait for at the end."""


class BlobWriter:
    """A blob being written: nothing is visible before `finish`.

    A small one is not written at all if it is here already, as most are of a build in which little has
    changed. Another is hashed and written by a thread, while whoever makes it goes on.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self.size = 0
        self._path = blobs.lease.temporary()
        self._start: bytearray | None = bytearray()  # what there is until there is a file
        self._file: FileIO | None = None
        self._written = 0
        self._begun = 0  # up to where the disk has been told to begin
        self._beside = Pipeline(self._take, "blob")

    def write(self, chunk: bytes) -> None:
        """Adds bytes; raises StoreError when they, or others before, cannot be stored."""
        self.size += len(chunk)
        if self._start is not None and self.size <= _SMALL:
            self._hash.update(chunk)
            self._start += chunk
            return
        self._beside.submit(chunk)

    def _take(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        file = self._store(chunk)
        if self._written - self._begun >= _BATCH:
            with suppress(OSError):  # a file system that does not know how is waited for at the end
                start_writeback(file.fileno(), self._begun, self._written - self._begun)
            self._begun = self._written

    def _store(self, chunk: bytes) -> FileIO:
        with map_errors(self._path):
            if self._file is None:
                # Without a buffer, whose rest would be written once more, and fail once more, when it is
                # closed.
                self._file = FileIO(self._path, "x")
            for piece in (self._start or b"", chunk):
                rest = memoryview(piece)
                while rest:
                    count = self._file.write(rest)
                    rest = rest[count:]
                    self._written += count
        self._start = None
        return self._file

    def check(self, expected: Digest) -> None:
        """Raises FormatError when the bytes so far do not have the `expected` digest."""
        self._beside.wait()
        digest = Digest(self._hash.hexdigest())
        if digest != expected:
            raise FormatError(
                f"the bytes of {expected} are not what they should be", why=f"they have {digest}"
            )

    def finish(self, expected: Digest | None = None) -> Digest:
        """Makes the blob durable and visible, and answers its digest; one that is here already stays.

        Raises FormatError, and stores nothing, when the bytes do not have the `expected` digest.
        """
        if expected is not None:
            self.check(expected)
        self._beside.wait()
        digest = Digest(self._hash.hexdigest())
        target = self._blobs.path(digest)
        # The one that is here may be damaged, and whoever makes it again may do so to mend it.
        here = self._blobs.size(digest) == self.size and self._blobs.is_intact(digest)
        with map_errors(target):
            if not here:
                os.fsync(self._store(b"").fileno())
                self._path.replace(target)
            sync_directory(target.parent)
        return digest

    def discard(self) -> None:
        """Lets go of the file; what was not finished is forgotten."""
        self._beside.shut_down()
        if self._file is None:
            return
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink()


class Blobs:
    """The blobs of a store. A blob that was found is kept from `gc` as long as the store is open."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self.lease.store / _object_path(digest)

    def size(self, digest: Digest) -> int | None:
        """The length of the blob in bytes, None when it is not here."""
        self.lease.pin(_object_path(digest))
        path = self.path(digest)
        with map_errors(path):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def is_intact(self, digest: Digest) -> bool:
        """Whether the blob is here and has its digest; one that is damaged is removed. Raises StoreError."""
        if self.size(digest) is None:
            return False
        try:
            for _ in self.chunks(digest):
                pass
        except StoreError:
            if self.size(digest) is None:
                return False
            raise
        return True

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """The blob's bytes, checked against its digest as they stream.

        Raises StoreError, after the last chunk, when they do not match; the damaged blob is removed, so that
        the next command brings it anew.
        """
        with self._open(digest) as file:
            yield from self._verify_chunks(digest, file)

    def _open(self, digest: Digest) -> FileIO:
        path = self.path(digest)
        self.lease.pin(_object_path(digest))
        with map_errors(path):
            return FileIO(path)

    def _verify_chunks(self, digest: Digest, file: FileIO) -> Iterator[bytes]:
        total, start = hashlib.sha256(), 0
        while chunk := self._read(digest, file, start, CHUNK):
            total.update(chunk)
            start += len(chunk)
            yield chunk
        if total.hexdigest() != digest.hex:
            raise self._remove_damaged(digest)

    def _read(self, digest: Digest, file: FileIO, start: int, most: int) -> bytes:
        with map_errors(self.path(digest)):
            return os.pread(file.fileno(), most, start)

    def _remove_damaged(self, digest: Digest) -> StoreError:
        """Removes a blob that is not what it should be."""
        path = self.path(digest)
        with suppress(OSError):
            path.unlink()
        return StoreError(
            f"the stored bytes of {digest} were damaged",
            why=f"{path} did not have its digest; it is removed now",
            fix="bring the image again: build it, or packhorse copy it from where it came. A build or run "
            "fetches what a registry has. `packhorse doctor --store` names every image that is damaged",
        )

    @contextmanager
    def part_reader(self, digest: Digest) -> Iterator[Callable[[int, int], Iterator[bytes]]]:
        """What reads parts of a blob, each from one offset to before another, in chunks.

        With the first that is read a thread begins to read all of it, and the block ends as `chunks` does.
        Raises StoreError.
        """
        with self._open(digest) as file, thread_pool(1, "check", timeout=_CHECK_TIMEOUT) as checking:
            checks: list[Future[None]] = []

            def check(descriptor: int) -> None:
                with FileIO(descriptor) as same:  # its own: who is called off does not wait for ever
                    for _ in checking.cancellable(self._verify_chunks(digest, same)):
                        pass

            def read(start: int, end: int) -> Iterator[bytes]:
                if not checks:
                    checks.append(checking.submit(check, os.dup(file.fileno())))
                while start < end:
                    chunk = self._read(digest, file, start, min(CHUNK, end - start))
                    if not chunk:
                        raise self._remove_damaged(digest)
                    start += len(chunk)
                    yield chunk

            yield read
            for each in checks:
                each.result()

    def read(self, digest: Digest) -> bytes:
        """A small blob whole: a manifest or a config."""
        return b"".join(self.chunks(digest))

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """Writes a blob whose digest is not known yet; what was not finished is discarded."""
        writer = BlobWriter(self)
        try:
            yield writer
        finally:
            writer.discard()

    def put(self, data: bytes) -> Digest:
        """Stores a small blob."""
        with self.writer() as writer:
            writer.write(data)
            return writer.finish()

    def add(self, chunks: Iterable[bytes], expected: Digest | None = None) -> tuple[Digest, int]:
        """Stores bytes and answers their digest and length; raises as `BlobWriter.finish` does."""
        with self.writer() as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish(expected), writer.size


def _object_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"
