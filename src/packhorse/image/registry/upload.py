"""④ Bringing blobs and manifests to a registry (distribution-spec, "Push").

Called by `image.registry.place`. Blobs go in one piece, which all registries take; in chunks where something
on the way refuses so large a piece. What a cut connection has brought there is asked for and not sent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlencode

from packhorse.base.digest import Digest
from packhorse.base.http.client import LONGEST_PAUSE
from packhorse.base.http.message import BrokenConnection, Request, Response
from packhorse.errors import InputError, NotFoundError, PackhorseError, RegistryError
from packhorse.image.model import Descriptor, Document
from packhorse.image.registry.client import Registry, pull_scope, push_scope
from packhorse.image.registry.session import Session, require_digest, skip_bytes
from packhorse.image.view import Chunks

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
        for chunk in _split_pieces(skip_bytes(content(), session.offset), length):
            expected = session.offset + len(chunk)
            if blob.size - session.offset <= length:
                return
            session.append(chunk)
            if session.offset != expected:
                break  # it took less: go on from there


def _split_pieces(chunks: Iterable[bytes], length: int) -> Iterator[bytes]:
    """The same bytes in pieces of a length, the last one shorter."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= length:
            yield bytes(buffer[:length])
            del buffer[:length]
    if buffer:
        yield bytes(buffer)
