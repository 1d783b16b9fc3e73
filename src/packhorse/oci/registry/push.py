"""Uploads blobs and manifests to a registry (distribution-spec, "Push").

A blob goes in one piece, which all registries accept, or in chunks if something on the way refuses so large a
piece. After a cut connection packhorse asks how much has arrived, and does not send that again. `Session` is
one upload.

`stream` compresses a layer while it uploads it (docs/decisions/0015). Two parts of the layer are in memory:
the one on its way, to send it again after a cut connection, and the next one. `registry.place` calls this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from urllib.parse import urlencode, urljoin, urlsplit

from packhorse.base.digest import Digest
from packhorse.base.threads import ThreadPool, thread_pool
from packhorse.errors import (
    FormatError,
    InputError,
    NetworkError,
    NotFoundError,
    PackhorseError,
    RegistryError,
)
from packhorse.http.client import (
    LONGEST_PAUSE,
    Body,
    BrokenConnection,
    Request,
    Response,
    host_of,
    retry_after,
    sanitize,
    split_url,
)
from packhorse.oci.compress import Compression, split_blocks, tee
from packhorse.oci.place import Chunks, Layer
from packhorse.oci.registry.client import Registry, pull_scope, push_scope
from packhorse.oci.types import Descriptor, Document

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_OCTETS = "application/octet-stream"


class Session:
    """An upload to a repository, for one thread. `offset` is how many bytes the registry is known to have.

    `least` is the length that its chunks have at least, but for the last one; `wait` the seconds that the
    registry asked for when it last refused something, None when it asked for none.
    """

    def __init__(self, registry: Registry, repository: str, begun: Response) -> None:
        self.offset = 0
        self.wait: float | None = None
        least = begun.header("oci-chunk-min-length")
        self.least = int(least) if re.fullmatch(r"[0-9]{1,10}", least) else 0
        self._registry = registry
        self._repository = repository
        self._location = _next_location(begun, "")

    def append(self, chunk: bytes) -> None:
        """Adds bytes behind those that the registry has; raises BrokenConnection, RegistryError.

        It may take less than all of them: `offset` says.
        """
        start, end = self.offset, self.offset + len(chunk)
        headers = {"content-type": _OCTETS, "content-range": f"{start}-{end - 1}"}
        request = Request("PATCH", self._location, headers, chunk, length=len(chunk))
        with self._send(request, "upload part of a blob") as response:
            told = _end_offset(response)
            self._location = _next_location(response, self._location)
            self.offset = end if told is None or not start < told <= end else told

    def close(self, blob: Descriptor, content: Chunks, *, begins: int = 0) -> None:
        """Sends what the registry lacks of a blob, and gives it its digest. Raises as `append` does.

        `content` has the blob's bytes from `begins` on.
        """
        query = urlencode({"digest": str(blob.digest)})
        url = f"{self._location}{'&' if urlsplit(self._location).query else '?'}{query}"
        headers = {"content-type": _OCTETS}
        body: Body = b""
        rest, skipped = blob.size - self.offset, self.offset - begins
        if rest:
            body = lambda: skip_bytes(content(), skipped)  # noqa: E731
        if rest and self.offset:
            headers["content-range"] = f"{self.offset}-{blob.size - 1}"
        request = Request("PUT", url, headers, body, length=rest)
        with self._send(request, f"upload blob {blob.digest.short}") as response:
            require_digest(response.header("docker-content-digest"), blob.digest)

    def find_offset(self) -> bool:
        """Asks how much the registry has; False when it does not know this upload any more."""
        try:
            with self._registry.exchange(
                Request("GET", self._location), push_scope(self._repository)
            ) as response:
                if response.status not in (200, 202, 204):
                    return False
                told = _end_offset(response)
                if told is None:
                    return False
                self._location = _next_location(response, self._location)
                self.offset = told
                return True
        except NetworkError:
            return False

    def abandon(self) -> None:
        """Has the registry forget the upload; that it does not is no error."""
        with suppress(NetworkError):
            self._registry.exchange(Request("DELETE", self._location), push_scope(self._repository)).close()

    def _send(self, request: Request, doing: str) -> Response:
        self.wait = None
        response = self._registry.exchange(request, push_scope(self._repository))
        if response.status in (201, 202, 204):
            return response
        self.wait = retry_after(response)
        raise self._registry.refusal_error(
            response, f"{doing} to {self._registry.host}/{self._repository}", push_scope(self._repository)
        )


def skip_bytes(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    """The bytes from `offset` on."""
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:] if offset else chunk
        offset = max(0, offset - len(chunk))


def require_digest(told: str, digest: Digest) -> None:
    """The registry's word on what it stored, where it gives one, must be what was sent."""
    if told and told != str(digest):
        raise FormatError("a registry stored something other than what was sent", why=f"{told}, not {digest}")


def _end_offset(response: Response) -> int | None:
    """How many bytes of an upload there are by an answer, None where it does not say.

    `0-0` is what registries say of an empty upload, though it reads as one byte.
    """
    match = _RANGE.fullmatch(response.header("range").strip())
    if match is None:
        return None
    return int(match[1]) + 1 if int(match[1]) else 0


def _next_location(response: Response, otherwise: str) -> str:
    """Where an upload goes on; as before, where an answer on the way does not say."""
    location = response.header("location")
    if not location and otherwise:
        return otherwise
    try:
        if not location:
            raise ValueError("it says none")
        url = urljoin(response.url, location)
        split_url(url)
    except ValueError as error:
        raise RegistryError(
            f"{host_of(response.url)} names no address to upload to", why=sanitize(location or str(error))
        ) from error
    return url


ATTEMPTS = 5
"""How often an upload is taken up within one mebibyte of it."""

CHUNKS = (16 << 20, 1 << 20)
"""Bytes of a chunk; the smaller where the larger is refused (proxies commonly take one mebibyte)."""

_MANIFEST_ATTEMPTS = 3  # how often a manifest is put whose blobs are there
_PROGRESS = 1 << 20
_TOO_LARGE = 413
_TRANSIENT = frozenset({408, 416, 429, *range(500, 600)}) - {501, 505}


def push_blob(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    """Sees to it that a repository has a blob; raises NetworkError, and what `content` raises.

    `content` is read only if the registry does not have it there, or in another repository that is known.
    What this command has seen there is not asked for.
    """
    with registry.lock_blob(repository, blob.digest):
        if not _is_present(registry, repository, blob):
            _upload(registry, repository, blob, content)
        registry.remember_blobs(repository, [blob.digest])


def is_blob_present(registry: Registry, repository: str, blob: Descriptor) -> bool:
    """Whether a repository has a blob, or took it over just now from another that is known to have it."""
    with registry.lock_blob(repository, blob.digest):
        found = _is_present(registry, repository, blob)
        if found:
            registry.remember_blobs(repository, [blob.digest])
        return found


def _is_present(registry: Registry, repository: str, blob: Descriptor) -> bool:
    """As `is_blob_present`. Taking over is one request, whether it was there or not, so that is tried first
    where the registry does it.
    """
    if registry.is_known_blob(repository, blob.digest):
        return True
    at_once = registry.mounts
    return (
        (at_once and _mount_blob(registry, repository, blob.digest))
        or registry.has_blob(repository, blob.digest, push_scope(repository))
        or (not at_once and _mount_blob(registry, repository, blob.digest))
    )


def put_manifest(registry: Registry, repository: str, identifier: str, manifest: Document) -> None:
    """Puts a manifest under a tag, or under its own digest; everything that it names must be there.

    InputError for a digest that is not its own.
    """
    if ":" in identifier and identifier != str(manifest.digest):
        raise InputError(
            f"{registry.name(repository, identifier)} cannot be written",
            why=f"the image has another digest: {manifest.digest}",
            fix="name a tag, or nothing but the repository",
        )
    url = registry.url(repository, f"manifests/{identifier}")
    request = Request("PUT", url, {"content-type": manifest.media_type}, manifest.raw)
    for attempt in range(1, _MANIFEST_ATTEMPTS + 1):
        with registry.exchange(request, push_scope(repository)) as response:
            if response.status in (200, 201, 202):
                require_digest(response.header("docker-content-digest"), Digest.of(manifest.raw))
                return
            doing = f"write {registry.name(repository, identifier)}"
            refusal = registry.refusal_error(response, doing, push_scope(repository))
        # A blob that somebody else brings to the same repository just now is missing for a moment.
        if "MANIFEST_BLOB_UNKNOWN" not in refusal.why or attempt == _MANIFEST_ATTEMPTS:
            raise refusal
        registry.pause(attempt)


def _mount_blob(registry: Registry, repository: str, digest: Digest) -> bool:
    """Whether the registry took a blob over from another of its repositories."""
    holder = registry.find_holder(digest)
    if holder is None or holder == repository:
        return False
    url = registry.url(repository, "blobs/uploads/")
    query = urlencode({"mount": str(digest), "from": holder})
    request, scopes = Request("POST", f"{url}?{query}"), f"{push_scope(repository)} {pull_scope(holder)}"
    session = None
    # Whoever may not read there, or is refused a token for both, has the blob to send.
    with suppress(RegistryError), _ask(registry, request, scopes) as response:
        if response.status == 201:
            return True
        if response.status == 202:  # the registry would not, and began an upload instead
            session = Session(registry, repository, response)
    registry.mounts = False
    if session is not None:
        session.abandon()
    return False


def start_upload(registry: Registry, repository: str) -> Session:
    """A new upload."""
    url, scope = registry.url(repository, "blobs/uploads/"), push_scope(repository)
    with _ask(registry, Request("POST", url), scope) as response:
        if response.status != 202:
            raise registry.refusal_error(response, f"write to {registry.host}/{repository}", scope)
        return Session(registry, repository, response)


def _ask(registry: Registry, request: Request, scope: str) -> Response:
    """The answer to the question for an upload, which costs nothing to ask again.

    Not asking again would be to fail whenever a connection that was kept for the next request has been
    closed by the other end, as it is while a large layer is compressed.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            response = registry.exchange(request, scope)
        except BrokenConnection:
            pass
        else:
            if response.status not in (500, 502, 504):
                return response
            response.close()
        registry.pause(attempt)
    return registry.exchange(request, scope)


class RetryBudget:
    """How much longer an upload is tried: `ATTEMPTS` times, and anew after each mebibyte that arrived."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._failures = 0
        self._reached = 0

    def spend(self, error: PackhorseError, *, offset: int, wait: float | None) -> None:
        """Waits after a failure with `offset` bytes there; raises it when there were too many."""
        if offset - self._reached >= _PROGRESS:
            self._failures, self._reached = 0, offset
        self._failures += 1
        if self._failures >= ATTEMPTS or (wait or 0) > LONGEST_PAUSE:
            raise error
        self._registry.pause(self._failures, wait)


def is_transient(error: PackhorseError) -> bool:
    """Whether an upload may well succeed when it is taken up, or begun, again.

    One that is not found is forgotten, or was finished and the answer lost.
    """
    if isinstance(error, RegistryError):
        return error.status in _TRANSIENT
    return isinstance(error, BrokenConnection | NotFoundError)


def _upload(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    sizes = [length for length in CHUNKS if length < blob.size]
    patience = RetryBudget(registry)
    length: int | None = None  # of the chunks; None for one piece
    unread: list[PackhorseError] = []

    def read() -> Iterator[bytes]:
        try:
            yield from content()
        except PackhorseError as error:
            unread.append(error)  # where it comes from has failed, not where it goes
            raise

    session = start_upload(registry, repository)
    while True:
        try:
            if length is not None:
                _append(session, blob, read, max(length, session.least))
            session.close(blob, read)
            return
        except (BrokenConnection, RegistryError, NotFoundError) as error:
            failure = error
            if not unread and isinstance(error, RegistryError) and error.status == _TOO_LARGE and sizes:
                length = sizes.pop(0)
            elif unread or not is_transient(error):
                session.abandon()
                raise
        known = session.find_offset() and session.offset <= blob.size
        patience.spend(failure, offset=session.offset if known else 0, wait=session.wait)
        if not known:
            if registry.has_blob(repository, blob.digest, push_scope(repository)):
                return
            session = start_upload(registry, repository)


def _append(session: Session, blob: Descriptor, content: Chunks, length: int) -> None:
    """Sends in chunks what the registry lacks of a blob, but for the last chunk's worth."""
    while blob.size - session.offset > length:
        for chunk in split_blocks(skip_bytes(content(), session.offset), length):
            expected = session.offset + len(chunk)
            if blob.size - session.offset <= length:
                return
            session.append(chunk)
            if session.offset != expected:
                break  # it took less: go on from there


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
