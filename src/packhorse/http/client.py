"""Sends HTTP requests by safe rules: where a redirect may lead, what is retried, what may go unencrypted.

`oci.registry` uses it. Requests, responses and the settings of one server (`HostConfig`) are values. Nothing
here opens a socket: a `Transport` does, either `http.transport` or a test's.
"""

from __future__ import annotations

import email.utils
import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import SplitResult, urljoin, urlsplit

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.files import is_directory
from packhorse.errors import InputError, NetworkError

Body = bytes | Callable[[], Iterator[bytes]]
"""Bytes to send, or a function that starts a new pass over them, so that a retry can send them again."""

REDIRECTS = 10  # the most redirects in a row
ATTEMPTS = 5  # how often a request is sent if it may be repeated

LONGEST_PAUSE = 60.0
"""The longest Retry-After in seconds that is obeyed. The caller gets an answer that asks for more."""

_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110 9.2.2
_REFUSED_UNDONE = frozenset({429, 503})
_NOT_UNDERSTOOD = 400  # the answer of some TLS servers to an unencrypted request
_FAILED_ONCE = frozenset({500, 502, 504})
_REDIRECTING = frozenset({301, 302, 303, 307, 308})

# The headers that are sent after a redirect to another host. This lists harmless headers, because a list of
# headers with credentials might be incomplete.
_KEPT_HEADERS = frozenset({"accept", "range"})


class BrokenConnection(NetworkError):
    """A connection was cut or fell silent. The same request may succeed if repeated."""


class ReadTimeout(BrokenConnection):
    """Nothing arrived within the read timeout. A retry may wait as long again."""


class EncryptionRequired(NetworkError):
    """A server that requires TLS got an unencrypted request. The same request by https may succeed."""


class UntrustedCertificate(NetworkError):
    """The server speaks TLS, but its certificate is not trusted."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `length` is the number of bytes of a streamed body, None to send it in chunks.

    Header names are lower-case. The repr omits headers, because they hold credentials.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body | None = field(default=None, repr=False)
    length: int | None = None

    def with_header(self, name: str, value: str) -> Request:
        """Returns the same request with one header added or replaced."""
        return replace(self, headers={**self.headers, name: value})


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Read its body once, by `chunks` or `read`, to its end, or close it.

    Header names are lower-case; commas join a repeated header. `url` is the address after redirects.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()
    url: str = ""
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def header(self, name: str) -> str:
        """Returns the value of a header, "" if the answer does not have it."""
        return self.headers.get(name, "")

    def chunks(self) -> Iterator[bytes]:
        """Yields the body as it arrives; BrokenConnection if it breaks off. The caller limits its size."""
        yield from self.body

    def read(self, limit: int) -> bytes:
        """Reads the whole body and closes the answer; NetworkError if it has more than `limit` bytes."""
        parts, size = [], 0
        with self:
            for part in self.body:
                size += len(part)
                if size > limit:
                    raise NetworkError(
                        f"the answer of {host_of(self.url)} is too large",
                        why=f"it has more than {limit} bytes ({redact(self.url)})",
                    )
                parts.append(part)
        return b"".join(parts)


class Transport(Protocol):
    """Sends one request and receives the answer."""

    def send(self, request: Request) -> Response:
        """Returns the answer with its body unread; NetworkError, or BrokenConnection if a retry may help."""
        ...


def split_url(url: str) -> SplitResult:
    """Splits a URL; raises ValueError if its host or port is not usable."""
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:
        raise ValueError(f"no usable host and port in {redact(url)!r}")
    return parts


def redact(url: str) -> str:
    """Returns a URL for messages, without user information and query, which hold secrets."""
    scheme, slashes, rest = url.partition("?")[0].partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def origin(url: str) -> tuple[str, str, int | None]:
    """Returns scheme, host and port, which are equal for two URLs of one server. Raises ValueError."""
    parts = split_url(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def host_of(url: str) -> str:
    """Returns the host and port of a URL for messages, without the user information before them."""
    return urlsplit(url).netloc.rpartition("@")[2] or "the server"


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def sanitize(text: str) -> str:
    """Makes text from the network safe for a terminal: one line, at most 500 printable characters."""
    line = "".join(character if character.isprintable() else " " for character in text[:2000])
    return " ".join(line.split())[:500]


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The settings for one server. `authorities` are PEM files to trust beside the usual ones.

    `client_certificate` is a certificate and its key. `insecure` permits untrusted certificates
    and no encryption.
    """

    authorities: tuple[Path, ...] = ()
    client_certificate: tuple[Path, Path] | None = None
    insecure: bool = False

    @classmethod
    def read(cls, directory: Path, *, insecure: bool = False) -> Self:
        """Reads a directory of certificates in docker's form: `*.crt` are authorities, `NAME.cert` and
        `NAME.key` the client certificate. Raises InputError.
        """
        try:
            names = sorted(directory.iterdir())
        except OSError as error:
            raise InputError(f"{directory} cannot be read", why=error.strerror or str(error)) from error
        pair = None
        for path in names:
            if path.suffix not in (".cert", ".key"):
                continue
            certificate, key = path.with_suffix(".cert"), path.with_suffix(".key")
            for needed in (certificate, key):
                if needed not in names:
                    raise InputError(
                        f"{directory} has {path.name} without {needed.name}",
                        why="a certificate to show to a registry needs its key, and the reverse",
                    )
            pair = pair or (certificate, key)
        return cls(tuple(path for path in names if path.suffix == ".crt"), pair, insecure)


DEFAULT_HOST_CONFIG = HostConfig()

HostConfigs = Callable[[str], HostConfig]
"""Returns the settings for HOST or HOST:PORT, as it is in the URL."""


def find_certificates(host: str, directories: Sequence[Path]) -> Path | None:
    """Returns the directory for `host` from the first certs.d directory that has it. `:443` is optional."""
    names = [host, host.removesuffix(":443")] if host.endswith(":443") else [host]
    if "/" in host or host in ("", ".", ".."):
        return None
    return next((d / name for d in directories for name in names if is_directory(d / name)), None)


def default_host_config(host: str) -> HostConfig:
    """Returns the default settings for every server."""
    return DEFAULT_HOST_CONFIG


class Client:
    """Follows redirects and retries requests after transient failures. Several threads may use it.

    It follows redirects of GET and HEAD, never from https to http, and sends another host only the headers
    `accept` and `range`. `host_configs` says which servers may be reached without encryption.

    It retries 429 and 503 after the time in Retry-After. If the method is idempotent, it also retries cut
    connections and other transient failures, and a silent connection once. It never retries a streamed body:
    only the caller knows how much of it the server has kept.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        sleep: Callable[[float], None] = time.sleep,
        host_configs: HostConfigs = default_host_config,
    ) -> None:
        self._transport = transport
        self._sleep = sleep
        self._host_configs = host_configs
        self._open: set[str] = set()  # servers that have answered an unencrypted request

    def host_config(self, host: str) -> HostConfig:
        """Returns the settings for a server, HOST or HOST:PORT."""
        return self._host_configs(host)

    def is_reachable(self, url: str) -> bool:
        """Whether a server answers one request. A server with an untrusted certificate counts."""
        try:
            self._require_encryption(url)
            self._transport.send(Request("GET", url)).close()
        except UntrustedCertificate:
            return True  # the next request reports the certificate
        except NetworkError:
            return False
        return True

    def send(self, request: Request) -> Response:
        """Returns the final answer, whatever its status; raises NetworkError if there is none."""
        for _ in range(REDIRECTS + 1):
            self._require_encryption(request.url)
            response = self._send_with_retries(request)
            location = response.header("location")
            if response.status not in _REDIRECTING or not location or request.method not in ("GET", "HEAD"):
                return response
            response.close()
            request = _redirect(request, location)
        raise NetworkError(
            "too many redirects", why=f"more than {REDIRECTS} in a row, the last to {host_of(request.url)}"
        )

    def pause(self, attempt: int, seconds: float | None = None) -> None:
        """Waits before a retry: `seconds`, or longer with each `attempt`, counted from 1."""
        self._sleep(0.5 * 2 ** (attempt - 1) if seconds is None else seconds)

    def _require_encryption(self, url: str) -> None:
        try:
            parts = split_url(url)
        except ValueError as error:
            raise NetworkError("a request has an invalid URL", why=str(error)) from error
        if parts.scheme == "https":
            return
        if parts.scheme == "http" and (
            is_loopback(parts.hostname or "") or self.host_config(parts.netloc).insecure
        ):
            return
        raise NetworkError(
            f"refusing to reach {parts.hostname} by {parts.scheme or 'an unknown scheme'}",
            why="packhorse uses https for every host except this machine",
            fix=f"if you trust the network in between: --insecure-registry {host_of(url)}",
        )

    def _send_with_retries(self, request: Request) -> Response:
        attempts = ATTEMPTS if request.body is None or isinstance(request.body, bytes) else 1
        idempotent = request.method in _IDEMPOTENT
        passing = _REFUSED_UNDONE | _FAILED_ONCE if idempotent else _REFUSED_UNDONE
        for attempt in range(1, attempts):
            asked = None
            try:
                response = self._transport.send(request)
            except ReadTimeout:
                if attempt > 1 or not idempotent:
                    raise
            except BrokenConnection:
                self._require_plain_http(request.url)
                if not idempotent:
                    raise
            else:
                if response.status == _NOT_UNDERSTOOD:
                    self._require_plain_http(request.url)
                self._open.add(host_of(request.url))
                asked = retry_after(response)
                if response.status not in passing or (asked or 0) > LONGEST_PAUSE:
                    return response
                response.close()
            self.pause(attempt, asked)
        return self._transport.send(request)

    def _require_plain_http(self, url: str) -> None:
        """Raises EncryptionRequired if a local server that failed without encryption answers with it."""
        scheme, host, _ = origin(url)
        if scheme != "http" or not is_loopback(host) or host_of(url) in self._open:
            return
        if self.is_reachable(f"https://{host_of(url)}/v2/"):
            raise EncryptionRequired(
                f"{host_of(url)} requires TLS", why=f"the request to {sanitize(url)} is not encrypted"
            )


def retry_after(response: Response) -> float | None:
    """Returns the seconds that an answer asks to wait (RFC 9110 10.2.3), or None."""
    value = response.header("retry-after").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _redirect(request: Request, location: str) -> Request:
    try:
        url = urljoin(request.url, location)
        same_server = origin(url) == origin(request.url)
    except ValueError as error:
        raise NetworkError(f"{host_of(request.url)} redirects to an invalid URL", why=str(error)) from error
    if split_url(request.url).scheme == "https" and split_url(url).scheme != "https":
        raise NetworkError(
            f"{host_of(request.url)} redirects from https to {split_url(url).scheme}",
            why="packhorse does not give up encryption",
        )
    if same_server:
        return replace(request, url=url)
    return replace(request, url=url, headers={k: v for k, v in request.headers.items() if k in _KEPT_HEADERS})
