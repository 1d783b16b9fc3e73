"""Calls one registry by the OCI distribution specification: reads manifests and blobs, and reports warnings.

`oci.registry.place` and its siblings call this. `registry.auth` presents credentials, `registry.push`
uploads, and `http` sends the requests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakValueDictionary

from packhorse.base.dataclass import replace
from packhorse.base.digest import Digest
from packhorse.errors import FormatError, InputError, NotFoundError, RegistryError
from packhorse.http.client import (
    BrokenConnection,
    Client,
    EncryptionRequired,
    Request,
    Response,
    host_of,
    is_loopback,
    origin,
    split_url,
)
from packhorse.oci.auth import ANONYMOUS_LOOKUP, Lookup
from packhorse.oci.compress import verify
from packhorse.oci.reference import DEFAULT_REGISTRY
from packhorse.oci.registry.auth import Authorizer, refusal_error, remove_secrets
from packhorse.oci.types import INDEXES, MANIFEST_LIMIT, MANIFESTS, Descriptor, Document, parse_document

_WARNING = re.compile(r'(?:^|,)\s*299\s+\S+\s+"((?:[^"\\]|\\.)*)"')  # RFC 7234 5.5
_WARNINGS_LIMIT = 4096  # characters of one answer's warnings that are read
_MOST = 16  # warnings of one registry that are reported


def ignore_warning(text: str) -> None:
    """Discards a warning."""


class Warnings:
    """Passes each different warning of one registry to `tell`, once (distribution-spec, "Warnings").

    Usable from several threads. packhorse does nothing else about a warning.
    """

    def __init__(self, tell: Callable[[str], None] = ignore_warning) -> None:
        self._tell = tell
        self._told: set[str] = set()
        self._lock = threading.Lock()

    def report(self, response: Response, secrets: Iterable[str] = ()) -> None:
        """Reports the warnings in an answer's header, without `secrets`, which a server might repeat."""
        header = response.header("warning")[:_WARNINGS_LIMIT]
        for quoted in _WARNING.findall(header) if header else ():
            text = re.sub(r"\\(.)", r"\1", quoted)
            self._report_once(f"{host_of(response.url)} warns: {remove_secrets(secrets, text)}")

    def _report_once(self, text: str) -> None:
        with self._lock:
            is_new = text not in self._told and len(self._told) < _MOST
            if is_new:
                self._told.add(text)
        if is_new:
            self._tell(text)


# The API of docker's registry has another host name than its images.
_HOSTS = {DEFAULT_REGISTRY: "registry-1.docker.io"}
_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))

RETRIES = 5
"""How often a download is tried again: of a manifest, or of a blob without one more MiB of progress."""

_HOLDERS = 32  # repositories that are remembered for one blob
_HELD = 8192  # blobs whose repositories are remembered

_PROGRESS = 1 << 20
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]+/(?:[0-9]+|\*)")


class Registry:
    """One registry host. Usable from several threads.

    `repository` is always the full name of a repository in the registry: `library/debian`. Methods raise
    NetworkError (RegistryError if the registry refuses), NotFoundError, and FormatError for bytes that do not
    have their digest. `tell` receives the registry's warnings. `in_one_piece` becomes true once the registry
    has refused an upload in parts, and `mounts` false once it has refused to mount a blob from another
    repository.
    """

    def __init__(
        self,
        host: str,
        http: Client,
        *,
        credentials: Lookup = ANONYMOUS_LOOKUP,
        tell: Callable[[str], None] = ignore_warning,
    ) -> None:
        where = _HOSTS.get(host, host)
        try:
            hostname = split_url(f"//{where}").hostname or ""
        except ValueError as error:
            raise InputError(f"not a registry: {host!r}", why=str(error)) from error
        peer = http.host_config(where)
        local = is_loopback(hostname)
        self._where = where
        # On a loopback address use no encryption, unless certificates are configured for it, or the server
        # answers that it needs encryption (`exchange`).
        self._scheme = "http" if local else "https"
        self._sure = not (peer.insecure or (local and (peer.authorities or peer.client_certificate)))
        self.host = host
        self.mounts = True
        self.in_one_piece = False
        self._http = http
        self._authorizer = Authorizer(credentials)
        self._warnings = Warnings(tell)
        self._holders: dict[Digest, list[str]] = {}
        self._suggested: dict[Digest, str] = {}
        self._blob_locks: WeakValueDictionary[tuple[str, Digest], threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._trying = threading.Lock()

    @property
    def _base(self) -> str:
        """Scheme and host. If encryption is optional, the first use tries whether the server has it."""
        if not self._sure:
            with self._trying:
                if not self._sure:
                    secure = self._http.is_reachable(f"https://{self._where}/v2/")
                    self._scheme = "https" if secure else "http"
                    self._sure = True
        return f"{self._scheme}://{self._where}"

    def url(self, repository: str, rest: str) -> str:
        """Returns the URL of something in a repository: `blobs/<digest>`, `manifests/<tag>`."""
        return f"{self._base}/v2/{repository}/{rest}"

    def registry_url(self, rest: str) -> str:
        """Returns the URL of something outside the repositories: `_catalog`."""
        return f"{self._base}/v2/{rest}"

    def name(self, repository: str, identifier: str) -> str:
        """Returns the full name of an image, for messages."""
        return f"{self.host}/{repository}{'@' if ':' in identifier else ':'}{identifier}"

    def exchange(self, request: Request, scope: str) -> Response:
        """Sends a request with the authorization that it needs; returns the answer, whatever its status.

        `scope` is as for `Authorizer.flow`. A request to another server, such as one that the registry named
        for uploads, has no authorization.
        """
        try:
            return self._exchange(request, scope)
        except EncryptionRequired:
            parts = split_url(request.url)
            if parts.netloc != self._where or parts.scheme != "http":
                raise
            self._scheme = "https"
            return self._exchange(replace(request, url=parts._replace(scheme="https").geturl()), scope)

    def _exchange(self, request: Request, scope: str) -> Response:
        if origin(request.url) != origin(self._base):
            return self._http.send(request)
        flow = self._authorizer.flow(request, scope)
        outgoing = next(flow)
        while True:
            response = self._http.send(outgoing)
            self._warnings.report(response, self._authorizer.secrets)
            try:
                outgoing = flow.send(response)
            except StopIteration:
                return response

    def check_login(self, repository: str = "") -> bool:
        """Whether the registry asked for credentials and accepted them; RegistryError if it refused them."""
        scope = pull_scope(repository) if repository else ""
        with self.exchange(Request("GET", self.registry_url("")), scope) as response:
            if response.status not in (200, 404):  # some registries lack this URL
                raise self.refusal_error(response, f"log in to {self.host}", scope)
        return bool(self._authorizer.origin(scope))

    def refusal_error(self, response: Response, doing: str, scope: str) -> RegistryError | NotFoundError:
        """Makes the error for an answer that is no success, as `registry.auth.refusal_error` does."""
        known = self._authorizer
        return refusal_error(
            response, doing, origin=known.origin(scope), login=self.host, secrets=known.secrets
        )

    def resolve(self, repository: str, identifier: str) -> Descriptor | None:
        """Returns the descriptor of what a tag or digest names now, by a HEAD request; None if it is missing.

        Without the digest in the answer it reads the manifest.
        """
        request = Request("HEAD", self.url(repository, f"manifests/{identifier}"), {"accept": _ACCEPT})
        with self.exchange(request, pull_scope(repository)) as response:
            if response.status == 404:
                return None
            stated, length = response.header("docker-content-digest"), _content_length(response)
            if response.status == 200 and stated.startswith("sha256:") and length is not None:
                digest = Digest.parse(stated)
                _require_same(digest, identifier, self.name(repository, identifier))
                return Descriptor(_media_type(response), digest, length)
            if response.status not in (200, 405):
                raise self.refusal_error(
                    response, f"look up {self.name(repository, identifier)}", pull_scope(repository)
                )
        try:
            return self.manifest(repository, identifier).descriptor
        except NotFoundError:
            return None

    def manifest(self, repository: str, identifier: str) -> Document:
        """Reads the manifest or index under a tag or digest, and verifies the digest."""
        name = self.name(repository, identifier)
        request = Request("GET", self.url(repository, f"manifests/{identifier}"), {"accept": _ACCEPT})
        for attempt in range(1, RETRIES + 1):
            with self.exchange(request, pull_scope(repository)) as response:
                if response.status != 200:
                    raise self.refusal_error(response, f"read {name}", pull_scope(repository))
                try:
                    raw = response.read(MANIFEST_LIMIT)
                    break
                except BrokenConnection:
                    if attempt == RETRIES:
                        raise
            self.pause(attempt)
        digest = Digest.of(raw)
        _require_same(digest, identifier, name)
        _require_same(digest, response.header("docker-content-digest"), name)
        return parse_document(raw, _media_type(response))

    def remember_blobs(self, repository: str, blobs: Iterable[Digest]) -> None:
        """Remembers that a repository has these blobs, so that other repositories can mount them."""
        with self._lock:
            for blob in blobs:
                holders = self._holders.pop(blob, [])
                if repository not in holders:
                    # Keep the first: it is often the base image's repository, which stays the longest.
                    del holders[1 : len(holders) - _HOLDERS + 2]
                    holders.append(repository)
                self._holders[blob] = holders
            while len(self._holders) > _HELD:
                del self._holders[next(iter(self._holders))]

    @contextmanager
    def lock_blob(self, repository: str, blob: Digest) -> Iterator[None]:
        """Lets one thread at a time upload a blob to a repository; the next ones then find it there.

        The distribution project's registry also reports a blob as missing while it is uploaded again.
        """
        with self._lock:
            blob_lock = self._blob_locks.setdefault((repository, blob), threading.Lock())
        with blob_lock:
            yield

    def is_known_blob(self, repository: str, blob: Digest) -> bool:
        """Whether this process knows that a repository has a blob."""
        with self._lock:
            return repository in self._holders.get(blob, ())

    def remember_candidate(self, repository: str, blob: Digest) -> None:
        """Remembers that a repository had a blob earlier, so that mounting from it is worth a try."""
        with self._lock:
            self._suggested[blob] = repository

    def find_holder(self, blob: Digest) -> str | None:
        """Returns a repository that has a blob, or had it earlier; None if none is known."""
        with self._lock:
            return next(iter(self._holders.get(blob, ())), None) or self._suggested.get(blob)

    def pause(self, attempt: int, seconds: float | None = None) -> None:
        """Waits before the next try: `seconds`, or a time that grows with `attempt`, counted from 1."""
        self._http.pause(attempt, seconds)

    def has_blob(self, repository: str, digest: Digest, scope: str) -> bool:
        """Asks whether a repository has a blob."""
        with self.exchange(Request("HEAD", self.url(repository, f"blobs/{digest}")), scope) as response:
            if response.status not in (200, 404):
                raise self.refusal_error(response, f"look up a blob of {self.host}/{repository}", scope)
            return response.status == 200

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob, and verifies its size and digest at the end."""
        where = f"{self.host}/{repository}"
        return verify(self.stream(repository, blob), blob.digest, blob.size, where=where)

    def stream(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """Yields the bytes of a blob without verifying them; after a cut connection it continues from there.

        It is for callers that verify the bytes themselves, as `compress.stored_layer` does.
        """
        offset = renewed_at = cuts = 0
        while offset < blob.size:
            with self._open(repository, blob, offset) as response:
                try:
                    for chunk in _skip_to(response, offset):
                        offset += len(chunk)
                        yield chunk
                    if offset >= blob.size or _has_known_end(response):
                        return
                    raise BrokenConnection(
                        f"the connection to {self.host} was cut", why=f"{offset} of {blob.size} bytes came"
                    )
                except BrokenConnection:
                    if offset - renewed_at >= _PROGRESS:
                        cuts, renewed_at = 0, offset
                    cuts += 1
                    if cuts > RETRIES:
                        raise

    def _open(self, repository: str, blob: Descriptor, offset: int) -> Response:
        headers = {"range": f"bytes={offset}-"} if offset else {}
        request = Request("GET", self.url(repository, f"blobs/{blob.digest}"), headers)
        response = self.exchange(request, pull_scope(repository))
        if response.status not in ((200, 206) if offset else (200,)):
            doing = f"read {_blob_name(blob)} of {self.host}/{repository}"
            raise self.refusal_error(response, doing, pull_scope(repository))
        length, expected = _content_length(response), blob.size - _start_offset(response)
        if length is not None and length != expected:
            response.close()
            raise FormatError(
                f"{_blob_name(blob)} has the wrong length",
                why=f"{self.host} has {length} bytes of it where the manifest says {expected}",
            )
        return response


def pull_scope(repository: str) -> str:
    """Returns the token scope to read a repository."""
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    """Returns the token scope to read and write a repository."""
    return f"repository:{repository}:pull,push"


def _blob_name(blob: Descriptor) -> str:
    return f"blob {blob.digest.short}"


def _media_type(response: Response) -> str:
    """Returns the media type in an answer's header; "" if it is not the one of a manifest or index."""
    media_type = response.header("content-type").partition(";")[0].strip().lower()
    return media_type if media_type in MANIFESTS | INDEXES else ""


def _content_length(response: Response) -> int | None:
    """Returns the length in an answer's header in bytes; None without a valid one."""
    value = response.header("content-length")
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else None


def _has_known_end(response: Response) -> bool:
    """Whether the HTTP client notices if this answer is cut short (RFC 9112 6.3)."""
    return _content_length(response) is not None or bool(response.header("transfer-encoding"))


def _start_offset(response: Response) -> int:
    """Returns the offset at which an answer begins (RFC 9110 14.4). A server may ignore the asked range."""
    match = _RANGE.fullmatch(response.header("content-range"))
    return int(match[1]) if response.status == 206 and match else 0


def _skip_to(response: Response, offset: int) -> Iterator[bytes]:
    """Yields the bytes of a blob from `offset` on."""
    surplus = offset - _start_offset(response)
    if surplus < 0:
        raise RegistryError(
            "a download cannot be continued", why="the server sent another range than packhorse asked for"
        )
    for chunk in response.chunks():
        yield chunk[surplus:]
        surplus = max(0, surplus - len(chunk))


def _require_same(digest: Digest, expected: str, name: str) -> None:
    """Raises FormatError if `expected` is another digest. It may also be a tag or ""."""
    if expected.startswith("sha256:") and expected != str(digest):
        raise FormatError(f"{name} has the wrong digest", why=f"its digest is {digest}, not {expected}")
