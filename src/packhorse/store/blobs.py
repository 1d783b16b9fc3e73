"""Stores bytes by their digest, as an OCI layout does: `blobs/sha256/<hex>`.

The blobs are manifests, configs, and layers, compressed or not: the diff ID of a layer is the digest of its
uncompressed bytes. This module does not know what a blob is for. `layers` and `place` use it.
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
"""The most bytes of one read."""

_SMALL = 1 << 20
"""The most bytes of a blob that stays in memory until it is finished."""

_CHECK_TIMEOUT = 5.0
"""Seconds to wait for the thread that checks a blob after an error or a cancellation."""

_BATCH = 8 << 20
"""Bytes after which writing to the disk is started, so that fsync(2) takes less time at the end."""


class BlobWriter:
    """Writes one blob, which no command sees before `finish`.

    A small blob stays in memory, and is not written if the store has it, as most of a build with few changes.
    A thread hashes and writes a larger one, while the caller makes the next chunk.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = hashlib.sha256()
        self.size = 0
        self._path = blobs.lease.temporary_path()
        self._start: bytearray | None = bytearray()  # the bytes so far, until there is a file
        self._file: FileIO | None = None
        self._written = 0
        self._begun = 0  # the offset up to which writing to the disk was started
        self._beside = Pipeline(self._take, "blob")

    def write(self, chunk: bytes) -> None:
        """Adds bytes. Raises StoreError if these or earlier ones cannot be written."""
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
            with suppress(OSError):  # a file system without this call only takes longer at the end
                start_writeback(file.fileno(), self._begun, self._written - self._begun)
            self._begun = self._written

    def _store(self, chunk: bytes) -> FileIO:
        with map_errors(self._path):
            if self._file is None:
                # Without a buffer: after an error, closing one would try to write its rest, and fail again.
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
        """Raises FormatError if the bytes so far do not have the `expected` digest."""
        self._beside.wait()
        digest = Digest(self._hash.hexdigest())
        if digest != expected:
            raise FormatError(
                f"the bytes of {expected} are not what they should be", why=f"they have {digest}"
            )

    def finish(self, expected: Digest | None = None) -> Digest:
        """Makes the blob durable and visible, unless the store has it; returns its digest.

        If the bytes do not have the `expected` digest, it stores nothing, and raises FormatError.
        """
        if expected is not None:
            self.check(expected)
        self._beside.wait()
        digest = Digest(self._hash.hexdigest())
        target = self._blobs.path(digest)
        # Check the blob that is here: it may be damaged, and the caller may bring it again for that reason.
        here = self._blobs.size(digest) == self.size and self._blobs.is_intact(digest)
        with map_errors(target):
            if not here:
                os.fsync(self._store(b"").fileno())
                self._path.replace(target)
            sync_directory(target.parent)
        return digest

    def discard(self) -> None:
        """Closes the file, and removes a blob that was not finished."""
        self._beside.shut_down()
        if self._file is None:
            return
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink()


class Blobs:
    """The blobs of a store. `gc` keeps a blob that was found here as long as the store is open."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def path(self, digest: Digest) -> Path:
        """The path of the blob, whether it exists or not."""
        return self.lease.store / _object_path(digest)

    def size(self, digest: Digest) -> int | None:
        """The length of the blob in bytes, None if it is not here."""
        self.lease.pin(_object_path(digest))
        path = self.path(digest)
        with map_errors(path):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                return None

    def is_intact(self, digest: Digest) -> bool:
        """Whether the blob is here and has its digest; removes a damaged one. Raises StoreError."""
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
        """Reads the blob in chunks, and checks its digest.

        If the digest does not match, it removes the blob, so that the next command brings it again, and
        raises StoreError after the last chunk.
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
        """Removes a damaged blob; returns the error to raise."""
        path = self.path(digest)
        with suppress(OSError):
            path.unlink()
        return StoreError(
            f"the stored bytes of {digest} were damaged",
            why=f"{path} did not have its digest; packhorse removed it",
            fix="bring the image again: build it, or packhorse copy it from where it came. A build or run "
            "fetches what a registry has. `packhorse doctor --store` names every image that is damaged",
        )

    @contextmanager
    def part_reader(self, digest: Digest) -> Iterator[Callable[[int, int], Iterator[bytes]]]:
        """A function that reads the part of a blob between two offsets, in chunks.

        At the first part a thread begins to read the whole blob. The end of the block waits for it, and
        raises StoreError, as `chunks` does, if the blob is damaged.
        """
        with self._open(digest) as file, thread_pool(1, "check", timeout=_CHECK_TIMEOUT) as checking:
            checks: list[Future[None]] = []

            def check(descriptor: int) -> None:
                # It has a descriptor of its own, because a cancelled block does not wait for this thread.
                with FileIO(descriptor) as same:
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
        """Reads a small blob, such as a manifest or a config."""
        return b"".join(self.chunks(digest))

    @contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """A writer for a blob whose digest is not known yet. Without `finish` the bytes are discarded."""
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
        """Stores bytes; returns their digest and length. Raises the same errors as `BlobWriter.finish`."""
        with self.writer() as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.finish(expected), writer.size


def _object_path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"
