"""④ A layer of unknown digest, compressed while it is uploaded (docs/decisions/0015).

Called by `image.registry.place`. Two parts of a layer are in memory: the one that is on its way, so that it
can be sent again from where a connection was cut, and the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from packhorse.base.crew import ThreadPool, thread_pool
from packhorse.base.http.message import BrokenConnection
from packhorse.errors import NotFoundError, PackhorseError, RegistryError
from packhorse.image.compress import Compression, tee
from packhorse.image.model import Descriptor
from packhorse.image.registry.client import Registry, push_scope
from packhorse.image.registry.session import Session
from packhorse.image.registry.upload import RetryBudget, is_transient, push_blob, start_upload
from packhorse.image.view import Layer

PART = 8 << 20
"""Compressed bytes that are sent at once; what has fewer in all is sent when its digest is known."""

_LARGEST = 64 << 20  # bytes of a part, of which two are in memory, that a registry may demand
_TIMEOUT = 3.0
_DENIED = frozenset({401, 403})


class UploadLost(Exception):
    """What was sent is lost, or refused in parts: the layer has to be read again."""


def stream(
    registry: Registry, repository: str, layer: Layer, compression: Compression, *, unless: Callable[[], bool]
) -> Layer:
    """Reads a layer once and brings it; raises Lost, NetworkError and what `compress.tee` raises.

    `unless` is asked before anything is sent of a layer that has more than one part: then it is Lost, too.
    """
    with thread_pool(1, "upload", timeout=_TIMEOUT) as sender:
        outgoing = _UploadWriter(registry, repository, sender, unless)
        try:
            stored = tee(layer, outgoing.write, compression)
            assert stored.descriptor is not None  # tee always gives one
            outgoing.close(stored.descriptor)
        except BaseException:
            outgoing.abandon()
            raise
    return stored


class _UploadWriter:
    """A sink that uploads what it gets, in parts, by the one thread of `sender`."""

    def __init__(
        self, registry: Registry, repository: str, sender: ThreadPool, unless: Callable[[], bool]
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._sender = sender
        self._unless = unless
        self._session: Session | None = None
        self._waiting = bytearray()
        self._sent = 0
        self._under_way: Future[None] | None = None

    def write(self, chunk: bytes) -> None:
        self._waiting += chunk
        session = self._session
        if len(self._waiting) < PART or (session is not None and len(self._waiting) < session.least):
            return
        if self._under_way is not None:
            self._under_way.result()
        if session is None:
            if self._registry.in_one_piece or self._unless():
                raise UploadLost
            session = self._session = start_upload(self._registry, self._repository)
            assert session is not None  # only what has a digest can be mounted
            if session.least > _LARGEST:
                raise UploadLost
            if len(self._waiting) < session.least:
                return
        part = bytes(self._waiting)
        self._waiting.clear()
        self._under_way = self._sender.submit(lambda part: self._send_part(session, part), part)
        self._sent += len(part)

    def close(self, blob: Descriptor) -> None:
        """Sends the rest and gives the blob its digest."""
        rest = bytes(self._waiting)
        session = self._session
        if session is None:
            push_blob(self._registry, self._repository, blob, lambda: iter([rest]))
            return
        if self._under_way is not None:
            self._under_way.result()
        patience = RetryBudget(self._registry)
        while True:
            try:
                session.close(blob, lambda: iter([rest]), begins=self._sent)
                break
            except (BrokenConnection, RegistryError, NotFoundError) as error:
                if not self._resume(session, error, patience, self._sent):
                    if self._registry.has_blob(self._repository, blob.digest, push_scope(self._repository)):
                        break  # it was finished, and the answer lost
                    raise UploadLost from error
        self._registry.remember_blobs(self._repository, [blob.digest])

    def abandon(self) -> None:
        """Has the registry forget what came of the upload, unless it does not answer within seconds."""
        if self._session is None:
            return
        with suppress(Exception):
            if self._under_way is not None:
                self._under_way.exception(_TIMEOUT)
            self._session.abandon()

    def _send_part(self, session: Session, part: bytes) -> None:
        start, end = session.offset, session.offset + len(part)
        patience = RetryBudget(self._registry)
        while session.offset < end:
            try:
                session.append(part[session.offset - start :])
            except (BrokenConnection, RegistryError, NotFoundError) as error:
                if not self._resume(session, error, patience, start):
                    raise UploadLost from error

    def _resume(self, session: Session, error: PackhorseError, budget: RetryBudget, start: int) -> bool:
        """Waits after a failure, and finds where to go on; False where that is nowhere behind `start`."""
        if isinstance(error, RegistryError) and error.status in _DENIED:
            raise error
        if not is_transient(error):
            self._registry.in_one_piece = True
            return False
        known = session.find_offset() and session.offset >= start
        try:
            budget.spend(error, offset=session.offset, wait=session.wait)
        except (RegistryError, NotFoundError):  # perhaps it takes one piece
            self._registry.in_one_piece = True
            return False
        return known
