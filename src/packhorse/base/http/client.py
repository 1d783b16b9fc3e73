"""The rules of an exchange: where a redirect may lead, what is repeated and when, what may go unencrypted.

Called by `image.registry`. No sockets here: a `Transport` has them, `base.http.pool` or a test's.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from urllib.parse import urljoin

from packhorse.base.dataclass import replace
from packhorse.base.http.message import (
    BrokenConnection,
    EncryptionRequired,
    ReadTimeout,
    Request,
    Response,
    Transport,
    UntrustedCertificate,
    host_of,
    is_loopback,
    origin,
    sanitize,
    split_url,
)
from packhorse.base.http.peer import HostConfig, HostConfigs, default_host_config
from packhorse.errors import NetworkError

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
