"""Requests, responses and URLs as values, and the port that exchanges one for the other.

Called by `http.client`, `http.transport` and `oci.registry`. Nothing here does I/O.

What is special about one server: whom to trust for it, what to show it, whether to insist on encryption.

Called by `http.transport` and `http.client`; `host.registries` decides.

The rules of an exchange: where a redirect may lead, what is repeated and when, what may go unencrypted.

Called by `oci.registry`. No sockets here: a `Transport` has them, `http.transport` or a test's.
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
"""What is sent: bytes, or a function that starts a fresh pass over them (so that it can be sent again)."""


class BrokenConnection(NetworkError):
    """A connection that was made was cut or fell silent; the same request may well succeed when repeated."""


class ReadTimeout(BrokenConnection):
    """A connection over which nothing came for as long as is waited for; whoever repeats that waits long."""


class EncryptionRequired(NetworkError):
    """A request in the open came to where TLS is spoken; the same one by https may well succeed."""


class UntrustedCertificate(NetworkError):
    """The other end speaks TLS, and its certificate is not trusted."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `length` is the number of bytes of a streamed body, None to send it in chunks.

    Header names are lower-case. Headers are left out of the repr: they hold credentials.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Body | None = field(default=None, repr=False)
    length: int | None = None

    def with_header(self, name: str, value: str) -> Request:
        """The same request with one header added or replaced."""
        return replace(self, headers={**self.headers, name: value})


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. Its body can be read once, by `chunks` or `read`; read it to its end, or close it.

    Header names are lower-case; a header that came several times is joined by commas. `url` is where the
    answer came from, after redirects.
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
        """The value of a header, "" when it did not come."""
        return self.headers.get(name, "")

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives; raises BrokenConnection when it breaks off. The caller counts the bytes."""
        yield from self.body

    def read(self, limit: int) -> bytes:
        """The whole body, then closes; raises NetworkError when it has more than `limit` bytes."""
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
    """Carries one request to the other end and the answer back."""

    def send(self, request: Request) -> Response:
        """The answer, its body unread; raises NetworkError, BrokenConnection where repeating may help."""
        ...


def split_url(url: str) -> SplitResult:
    """The parts of a URL whose host and port can be used; raises ValueError for any other."""
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:
        raise ValueError(f"no usable host and port in {redact(url)!r}")
    return parts


def redact(url: str) -> str:
    """A URL for messages: without user information and query, which have passwords and signatures."""
    scheme, slashes, rest = url.partition("?")[0].partition("//")
    host, slash, path = rest.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path}"


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: two URLs of the same origin are the same server. Raises ValueError."""
    parts = split_url(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def host_of(url: str) -> str:
    """The host and port of a URL, for messages; never the user information before them."""
    return urlsplit(url).netloc.rpartition("@")[2] or "the server"


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine itself: localhost, 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def sanitize(text: str) -> str:
    """Text from the network, fit for a terminal: one line, no control characters, at most 500 characters."""
    line = "".join(character if character.isprintable() else " " for character in text[:2000])
    return " ".join(line.split())[:500]


@dataclass(frozen=True, slots=True)
class HostConfig:
    """`authorities` are PEM files of certificates trusted beside the usual ones; `client_certificate` is the
    certificate to show, and its key. With `insecure` neither encryption nor a trusted certificate is insisted
    on.
    """

    authorities: tuple[Path, ...] = ()
    client_certificate: tuple[Path, Path] | None = None
    insecure: bool = False

    @classmethod
    def read(cls, directory: Path, *, insecure: bool = False) -> Self:
        """What a directory of certificates has, as docker and containers know it: `*.crt` are authorities,
        `NAME.cert` and `NAME.key` what is shown. Raises InputError.
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
"""What is special about the server at HOST or HOST:PORT, as a URL has it."""


def find_certificates(host: str, directories: Sequence[Path]) -> Path | None:
    """The first of some certs.d directories that has one for a server; a port 443 may be left out."""
    names = [host, host.removesuffix(":443")] if host.endswith(":443") else [host]
    if "/" in host or host in ("", ".", ".."):
        return None
    return next((d / name for d in directories for name in names if is_directory(d / name)), None)


def default_host_config(host: str) -> HostConfig:
    """No server is special."""
    return DEFAULT_HOST_CONFIG


REDIRECTS = 10
ATTEMPTS = 5
LONGEST_PAUSE = 60.0
"""Seconds that a Retry-After may ask for; an answer that asks for more is handed to the caller at once."""

_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # RFC 9110 9.2.2
_REFUSED_UNDONE = frozenset({429, 503})
_NOT_UNDERSTOOD = 400  # what is said by servers that speak TLS of what is none, if anything
_FAILED_ONCE = frozenset({500, 502, 504})
_REDIRECTING = frozenset({301, 302, 303, 307, 308})

# What follows a redirect to another host. A list of what is known to be harmless, so that no way of
# presenting credentials can be forgotten.
_KEPT_HEADERS = frozenset({"accept", "range"})


class Client:
    """Requests with redirects followed and passing failures repeated; usable from several threads.

    Redirects are followed for GET and HEAD. Another host is sent none of the request's headers but `accept`
    and `range`, and encryption is never given up on the way. `host_configs` says which servers are spoken to
    without it.

    429 and 503 are repeated after the time that Retry-After asks for, cut connections and other passing
    failures where the method is idempotent, and what fell silent once. A streamed body is never repeated
    here: only its maker knows what the other end has kept of it.
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
        self._open: set[str] = set()  # servers of this machine that have answered in the open

    def host_config(self, host: str) -> HostConfig:
        """What is special about a server, HOST or HOST:PORT."""
        return self._host_configs(host)

    def is_reachable(self, url: str) -> bool:
        """Whether somebody answers there, asked once; one whose certificate is not trusted does."""
        try:
            self._require_encryption(url)
            self._transport.send(Request("GET", url)).close()
        except UntrustedCertificate:
            return True  # whoever asks next is told more
        except NetworkError:
            return False
        return True

    def send(self, request: Request) -> Response:
        """The final answer, whatever its status; raises NetworkError (or Encrypted) when there is none."""
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
        """Waits before a repetition: `seconds`, or longer with each attempt, which are counted from 1."""
        self._sleep(0.5 * 2 ** (attempt - 1) if seconds is None else seconds)

    def _require_encryption(self, url: str) -> None:
        try:
            parts = split_url(url)
        except ValueError as error:
            raise NetworkError("a request leads nowhere", why=str(error)) from error
        if parts.scheme == "https":
            return
        if parts.scheme == "http" and (
            is_loopback(parts.hostname or "") or self.host_config(parts.netloc).insecure
        ):
            return
        raise NetworkError(
            f"refusing to reach {parts.hostname} by {parts.scheme or 'an unknown scheme'}",
            why="only this machine itself is spoken to without encryption, everything else by https",
            fix=f"if you trust the way there: --insecure-registry {host_of(url)}",
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
        """Raises Encrypted where a server speaks TLS that said nothing of use in the open."""
        scheme, host, _ = origin(url)
        if scheme != "http" or not is_loopback(host) or host_of(url) in self._open:
            return
        if self.is_reachable(f"https://{host_of(url)}/v2/"):
            raise EncryptionRequired(
                f"{host_of(url)} wants to be spoken to by TLS", why=f"{sanitize(url)} asks for none"
            )


def retry_after(response: Response) -> float | None:
    """Seconds that an answer asks to wait (RFC 9110 10.2.3), None when it does not."""
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
        raise NetworkError(f"{host_of(request.url)} redirects to what is no URL", why=str(error)) from error
    if split_url(request.url).scheme == "https" and split_url(url).scheme != "https":
        raise NetworkError(
            f"{host_of(request.url)} redirects from https to {split_url(url).scheme}",
            why="following it would give up encryption",
        )
    if same_server:
        return replace(request, url=url)
    return replace(request, url=url, headers={k: v for k, v in request.headers.items() if k in _KEPT_HEADERS})
