"""④ One upload under way: how much of a blob the registry has, and where it goes on.

Distribution-spec, "Pushing Blobs" and "Pushing a blob in chunks". Called by `image.registry.upload`, which
decides what is sent and when to go on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlencode, urljoin, urlsplit

from packhorse.base.digest import Digest
from packhorse.base.http.client import retry_after
from packhorse.base.http.message import Body, Request, Response, host_of, sanitize, split_url
from packhorse.errors import FormatError, NetworkError, RegistryError
from packhorse.image.model import Descriptor
from packhorse.image.registry.client import Registry, push_scope
from packhorse.image.view import Chunks

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
