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
    """One upload to a repository, for one thread (distribution-spec, "Pushing a blob in chunks").

    `offset` is how many bytes the registry has. `least` is the fewest bytes that a chunk may have, except the
    last one. `wait` is how many seconds the registry asked to wait when it last refused, None if it did not.
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
        """Appends bytes to those that the registry has; raises BrokenConnection, RegistryError.

        The registry may accept fewer bytes; see `offset`.
        """
        start, end = self.offset, self.offset + len(chunk)
        headers = {"content-type": _OCTETS, "content-range": f"{start}-{end - 1}"}
        request = Request("PATCH", self._location, headers, chunk, length=len(chunk))
        with self._send(request, "upload part of a blob") as response:
            stated = _end_offset(response)
            self._location = _next_location(response, self._location)
            self.offset = end if stated is None or not start < stated <= end else stated

    def close(self, blob: Descriptor, content: Chunks, *, begins: int = 0) -> None:
        """Sends what the registry lacks of a blob, and finishes the upload. Raises as `append` does.

        `content` has the blob's bytes from offset `begins` on.
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
        """Asks how much the registry has, and sets `offset`; returns False if it does not know the upload."""
        try:
            with self._registry.exchange(
                Request("GET", self._location), push_scope(self._repository)
            ) as response:
                if response.status not in (200, 202, 204):
                    return False
                stated = _end_offset(response)
                if stated is None:
                    return False
                self._location = _next_location(response, self._location)
                self.offset = stated
                return True
        except NetworkError:
            return False

    def abandon(self) -> None:
        """Cancels the upload. It is no error if the registry refuses."""
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
    """Yields the bytes from `offset` on."""
    for chunk in chunks:
        if offset < len(chunk):
            yield chunk[offset:] if offset else chunk
        offset = max(0, offset - len(chunk))


def require_digest(stated: str, digest: Digest) -> None:
    """Raises FormatError if the registry states another digest for what it stored. It may state none, ""."""
    if stated and stated != str(digest):
        raise FormatError(
            "a registry stored something other than what was sent", why=f"{stated}, not {digest}"
        )


def _end_offset(response: Response) -> int | None:
    """Returns how many bytes of an upload the registry has, by its answer; None if that does not tell.

    Registries write `0-0` for an empty upload, although it means one byte.
    """
    match = _RANGE.fullmatch(response.header("range").strip())
    if match is None:
        return None
    return int(match[1]) + 1 if int(match[1]) else 0


def _next_location(response: Response, otherwise: str) -> str:
    """Returns the URL for an upload's next request; `otherwise` if an answer names none."""
    location = response.header("location")
    if not location and otherwise:
        return otherwise
    try:
        if not location:
            raise ValueError("its answer has no Location header")
        url = urljoin(response.url, location)
        split_url(url)
    except ValueError as error:
        raise RegistryError(
            f"{host_of(response.url)} names no address to upload to", why=sanitize(location or str(error))
        ) from error
    return url


ATTEMPTS = 5
"""How often an upload is tried without one more MiB of progress."""

CHUNKS = (16 << 20, 1 << 20)
"""The sizes of chunks in bytes; the second if the first is refused (proxies commonly allow 1 MiB)."""

_MANIFEST_ATTEMPTS = 3  # how often a manifest is put if the registry reports a missing blob
_PROGRESS = 1 << 20
_TOO_LARGE = 413
_TRANSIENT = frozenset({408, 416, 429, *range(500, 600)}) - {501, 505}


def push_blob(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    """Uploads a blob unless the repository has it; raises NetworkError, and what `content` raises.

    `content` is read only if the repository lacks the blob and cannot mount it from another known repository.
    packhorse does not ask the registry for a blob that this process has already seen there.
    """
    with registry.lock_blob(repository, blob.digest):
        if not _is_present(registry, repository, blob):
            _upload(registry, repository, blob, content)
        registry.remember_blobs(repository, [blob.digest])


def is_blob_present(registry: Registry, repository: str, blob: Descriptor) -> bool:
    """Whether a repository has a blob, or has just mounted it from another known repository."""
    with registry.lock_blob(repository, blob.digest):
        found = _is_present(registry, repository, blob)
        if found:
            registry.remember_blobs(repository, [blob.digest])
        return found


def _is_present(registry: Registry, repository: str, blob: Descriptor) -> bool:
    """Does what `is_blob_present` does, for a caller that holds the blob's lock.

    It tries to mount first if the registry supports that, because one such request is enough in any case.
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
    """Uploads a manifest under a tag or its own digest. Everything that it names must be there.

    Raises InputError for another digest.
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
        # While another client uploads the same blob, the registry may report it as missing for a moment.
        if "MANIFEST_BLOB_UNKNOWN" not in refusal.why or attempt == _MANIFEST_ATTEMPTS:
            raise refusal
        registry.pause(attempt)


def _mount_blob(registry: Registry, repository: str, digest: Digest) -> bool:
    """Mounts a blob from another repository of the registry; returns whether that worked."""
    holder = registry.find_holder(digest)
    if holder is None or holder == repository:
        return False
    url = registry.url(repository, "blobs/uploads/")
    query = urlencode({"mount": str(digest), "from": holder})
    request, scopes = Request("POST", f"{url}?{query}"), f"{push_scope(repository)} {pull_scope(holder)}"
    session = None
    # A user who may not read the other repository must upload the blob.
    with suppress(RegistryError), _ask(registry, request, scopes) as response:
        if response.status == 201:
            return True
        if response.status == 202:  # the registry began an upload instead
            session = Session(registry, repository, response)
    registry.mounts = False
    if session is not None:
        session.abandon()
    return False


def start_upload(registry: Registry, repository: str) -> Session:
    """Begins an upload; raises NetworkError."""
    url, scope = registry.url(repository, "blobs/uploads/"), push_scope(repository)
    with _ask(registry, Request("POST", url), scope) as response:
        if response.status != 202:
            raise registry.refusal_error(response, f"write to {registry.host}/{repository}", scope)
        return Session(registry, repository, response)


def _ask(registry: Registry, request: Request, scope: str) -> Response:
    """Sends the request for an upload, again if necessary, and returns the answer.

    While packhorse compresses a large layer, the server often closes the idle connection. The next request
    then fails, and it is harmless to send it again.
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
    """Limits the tries of an upload to `ATTEMPTS`, counted again after each MiB of progress."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._failures = 0
        self._reached = 0

    def spend(self, error: PackhorseError, *, offset: int, wait: float | None) -> None:
        """Waits after a failure with `offset` bytes sent; raises `error` after too many failures."""
        if offset - self._reached >= _PROGRESS:
            self._failures, self._reached = 0, offset
        self._failures += 1
        if self._failures >= ATTEMPTS or (wait or 0) > LONGEST_PAUSE:
            raise error
        self._registry.pause(self._failures, wait)


def is_transient(error: PackhorseError) -> bool:
    """Whether an upload may succeed if it is continued or begun again.

    If the registry does not find the upload, it has forgotten it, or has finished it and the answer was lost.
    """
    if isinstance(error, RegistryError):
        return error.status in _TRANSIENT
    return isinstance(error, BrokenConnection | NotFoundError)


def _upload(registry: Registry, repository: str, blob: Descriptor, content: Chunks) -> None:
    sizes = [length for length in CHUNKS if length < blob.size]
    budget = RetryBudget(registry)
    length: int | None = None  # of the chunks; None for one piece
    read_errors: list[PackhorseError] = []  # of the source, not of the registry

    def read() -> Iterator[bytes]:
        try:
            yield from content()
        except PackhorseError as error:
            read_errors.append(error)
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
            if not read_errors and isinstance(error, RegistryError) and error.status == _TOO_LARGE and sizes:
                length = sizes.pop(0)
            elif read_errors or not is_transient(error):
                session.abandon()
                raise
        known = session.find_offset() and session.offset <= blob.size
        budget.spend(failure, offset=session.offset if known else 0, wait=session.wait)
        if not known:
            if registry.has_blob(repository, blob.digest, push_scope(repository)):
                return
            session = start_upload(registry, repository)


def _append(session: Session, blob: Descriptor, content: Chunks, length: int) -> None:
    """Sends in chunks what the registry lacks of a blob, except the last `length` bytes or less."""
    while blob.size - session.offset > length:
        for chunk in split_blocks(skip_bytes(content(), session.offset), length):
            expected = session.offset + len(chunk)
            if blob.size - session.offset <= length:
                return
            session.append(chunk)
            if session.offset != expected:
                break  # the registry accepted fewer bytes: continue from there


PART = 8 << 20
"""Compressed bytes in one part. A layer with fewer bytes is sent after it is compressed, by its digest."""

_LARGEST = 64 << 20  # the most bytes that a registry may demand for a part; two parts are in memory
_TIMEOUT = 3.0  # seconds to cancel an upload
_DENIED = frozenset({401, 403})


class UploadLost(Exception):
    """An upload in parts failed or is not wanted. The caller then compresses the whole layer first."""


def stream(
    registry: Registry, repository: str, layer: Layer, compression: Compression, *, unless: Callable[[], bool]
) -> Layer:
    """Compresses a layer and uploads it at the same time.

    If a layer has more than one part, it calls `unless` before it sends the first one, and raises UploadLost
    if that is true. Also raises UploadLost if the upload is lost or the registry refuses parts, NetworkError,
    and what `compress.tee` raises.
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
    """A sink that uploads what it receives, in parts, in the one thread of `sender`."""

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
            if session.least > _LARGEST:
                raise UploadLost
            if len(self._waiting) < session.least:
                return
        part = bytes(self._waiting)
        self._waiting.clear()
        self._under_way = self._sender.submit(lambda part: self._send_part(session, part), part)
        self._sent += len(part)

    def close(self, blob: Descriptor) -> None:
        """Sends the last part and finishes the upload. Sends everything here if it is less than one part."""
        rest = bytes(self._waiting)
        session = self._session
        if session is None:
            push_blob(self._registry, self._repository, blob, lambda: iter([rest]))
            return
        if self._under_way is not None:
            self._under_way.result()
        budget = RetryBudget(self._registry)
        while True:
            try:
                session.close(blob, lambda: iter([rest]), begins=self._sent)
                break
            except (BrokenConnection, RegistryError, NotFoundError) as error:
                if not self._resume(session, error, budget, self._sent):
                    if self._registry.has_blob(self._repository, blob.digest, push_scope(self._repository)):
                        break  # the upload was finished, but its answer was lost
                    raise UploadLost from error
        self._registry.remember_blobs(self._repository, [blob.digest])

    def abandon(self) -> None:
        """Cancels the upload; does not wait long if the registry does not answer."""
        if self._session is None:
            return
        with suppress(Exception):
            if self._under_way is not None:
                self._under_way.exception(_TIMEOUT)
            self._session.abandon()

    def _send_part(self, session: Session, part: bytes) -> None:
        start, end = session.offset, session.offset + len(part)
        budget = RetryBudget(self._registry)
        while session.offset < end:
            try:
                session.append(part[session.offset - start :])
            except (BrokenConnection, RegistryError, NotFoundError) as error:
                if not self._resume(session, error, budget, start):
                    raise UploadLost from error

    def _resume(self, session: Session, error: PackhorseError, budget: RetryBudget, start: int) -> bool:
        """Waits after a failure and finds the offset to continue at; False if that is before `start`."""
        if isinstance(error, RegistryError) and error.status in _DENIED:
            raise error
        if not is_transient(error):
            self._registry.in_one_piece = True
            return False
        known = session.find_offset() and session.offset >= start
        try:
            budget.spend(error, offset=session.offset, wait=session.wait)
        except (RegistryError, NotFoundError):  # perhaps the registry accepts one piece
            self._registry.in_one_piece = True
            return False
        return known
