"""Requests, responses and URLs as values, and the port that exchanges one for the other.

Called by `base.http.client`, `base.http.pool` and `image.registry`. Nothing here does I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, Self
from urllib.parse import SplitResult, urlsplit

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.errors import NetworkError

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
