"""Transfers one file over HTTP. After an interruption, the next request continues where the last one ended.

Called by `sdk.download`. Follows redirects, but not from https to http. Sends the user and password in a URL
only to its own host.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from packhorse.errors import FormatError, HostError, InputError, NetworkError, NotFoundError
from packhorse.sdk.bindings import Bindings
from packhorse.sdk.download import Address, redact_url

_CHUNK = 1 << 18
_TIMEOUT = 30.0
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_PROXIES = ("http", "https", "no")


class InterruptedTransfer(Exception):
    """A request failed, and another may succeed. `wait`: the seconds that the server asked for, or 0."""

    def __init__(self, reason: str, *, wait: float = 0) -> None:
        super().__init__(reason)
        self.wait = wait


class Transfer:
    """Writes received bytes to `part`; raises FormatError for more than `limit`."""

    def __init__(
        self,
        address: Address,
        part: Path,
        env: Mapping[str, str],
        bindings: Bindings,
        *,
        limit: int,
        size: int = 0,
    ) -> None:
        self._address = address
        self._part = part
        self._limit = limit
        self._size = size
        self._tag = ""
        self._total = -1
        self.received = 0
        self._opener = _opener(env, bindings)
        part.unlink(missing_ok=True)

    def restart(self) -> None:
        """Discards the bytes received so far."""
        self.received, self._tag, self._total = 0, "", -1
        self._part.unlink(missing_ok=True)

    def resume(self) -> None:
        """Fetches what is missing.

        Raises InterruptedTransfer, or NetworkError, NotFoundError or FormatError at once.
        """
        try:
            with self._opener.open(self._request(), timeout=_TIMEOUT) as response:
                self._receive(response)
        except urllib.error.HTTPError as error:
            with error:
                self._raise_refused(error)
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise NetworkError(
                    f"the certificate of {urlsplit(self._address.url).hostname} is not trusted",
                    why=error.reason.verify_message,
                    fix="name the authority with SSL_CERT_FILE, or by a binding of type ca-certificates",
                ) from error
            raise InterruptedTransfer(_describe(error.reason)) from error
        except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise InterruptedTransfer(_describe(error)) from error

    def _request(self) -> urllib.request.Request:
        parts = urlsplit(self._address.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                f"{self._address.display} is not a URL that can be fetched",
                why=self._address.setting,
                fix="write https://HOST/PATH",
            )
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        request = urllib.request.Request(bare, headers={"Accept-Encoding": "identity"})
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        request.add_header("User-Agent", "packhorse-sdk")
        if self.received:
            request.add_header("Range", f"bytes={self.received}-")
            request.add_header("If-Range", self._tag)
        return request

    def _receive(self, response: Any) -> None:
        headers = response.headers
        if response.status == 206 and not _starts_at(headers, self.received):
            self.restart()
            raise InterruptedTransfer("the server sent another part than the requested one")
        if response.status != 206 and self.received:
            self.restart()
        if not self.received:
            self._total = _length(headers)
            etag = headers.get("ETag", "")
            self._tag = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
            if self._size and self._total not in (-1, self._size):
                raise FormatError(
                    f"{self._address.display} is not the requested file",
                    why=f"it has {self._total} bytes, not {self._size}",
                )
        with self._part.open("ab") as file:
            while chunk := self._read(response):
                if self.received + len(chunk) > self._limit:
                    raise FormatError(
                        f"{self._address.display} is too large",
                        why=f"it has over {self._limit} bytes",
                    )
                file.write(chunk)
                self.received += len(chunk)
        if self.received < self._total:
            self._raise_interrupted()

    def _read(self, response: Any) -> bytes:
        try:
            data: bytes = response.read(_CHUNK)
        except http.client.IncompleteRead as error:
            data = error.partial
        except (OSError, http.client.HTTPException) as error:
            self._raise_interrupted(_describe(error), error)
        return data

    def _raise_interrupted(self, why: str = "", error: Exception | None = None) -> None:
        if not self._tag:  # without a tag, the rest may be of another file
            received, self.received = self.received, 0
            self._part.unlink(missing_ok=True)
        else:
            received = self.received
        of = f" of {self._total}" if self._total >= 0 else ""
        raise InterruptedTransfer(
            f"the connection broke off after {received}{of} bytes{f': {why}' if why else ''}"
        ) from error

    def _raise_refused(self, error: urllib.error.HTTPError) -> None:
        said = f"HTTP status {error.code} {error.reason or ''}".rstrip()
        if error.code == 416 and self.received:
            self.restart()
            raise InterruptedTransfer(said) from error
        if error.code in _TRANSIENT:
            raise InterruptedTransfer(said, wait=_seconds(error.headers.get("Retry-After", ""))) from error
        where = redact_url(error.url or self._address.url)
        if where != self._address.display:
            said += f" from {where}, to which it was redirected"
        setting = f" ({self._address.setting} names it)" if self._address.setting else ""
        if error.code in (401, 403, 407):
            whose = "proxy" if error.code == 407 else "server"
            raise NetworkError(
                f"{self._address.display} needs credentials, or other ones",
                why=f"{said}{setting}",
                fix=f"the {whose} wants a user and password: put them into its URL",
            ) from error
        if error.code in (404, 410):
            raise NotFoundError(
                f"there is no {self._address.display}",
                why=f"{said}{setting}",
                fix=f"put the file there, or change {self._address.setting}"
                if self._address.setting
                else "the buildpack's address is wrong or old; BP_DEPENDENCY_MIRROR can name a mirror",
            ) from error
        raise NetworkError(f"{self._address.display} cannot be fetched", why=f"{said}{setting}") from error


class _Proxies(urllib.request.ProxyHandler):
    """The build's proxies. urllib's own handler reads NO_PROXY from this process's environment."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = dict(settings)
        super().__init__({name: url for name, url in settings.items() if name != "no"})

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
        if bypass(req.host, self._settings):
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in ("http", "https") or (before == "https" and after == "http"):
            raise NetworkError(
                f"{redact_url(req.full_url)} cannot be fetched",
                why=f"it redirects to {redact_url(newurl)}, which is less secure",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(env: Mapping[str, str], bindings: Bindings) -> urllib.request.OpenerDirector:
    proxies = {name: env.get(f"{name}_proxy") or env.get(f"{name.upper()}_PROXY", "") for name in _PROXIES}
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies({name: url for name, url in proxies.items() if url}),
        _Redirects(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_tls_context(env, bindings)),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _tls_context(env: Mapping[str, str], bindings: Bindings) -> ssl.SSLContext:
    """Trusts the certificates in SSL_CERT_FILE and SSL_CERT_DIR, else the image's, and those in bindings."""
    file, directory = env.get("SSL_CERT_FILE") or None, env.get("SSL_CERT_DIR") or None
    try:
        context = ssl.create_default_context(cafile=file, capath=directory)
        for binding in bindings.of_type("ca-certificates"):
            for path in binding.entries.values():
                context.load_verify_locations(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise HostError(
            "the certificates of authorities cannot be read",
            why=f"{file or directory or 'a binding of type ca-certificates'}: {error.strerror or error}",
            fix="check SSL_CERT_FILE and the bindings of type ca-certificates",
        ) from error
    return context


def _starts_at(headers: Message, position: int) -> bool:
    return headers.get("Content-Range", "").startswith(f"bytes {position}-")


def _length(headers: Message) -> int:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0


def _describe(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer for {_TIMEOUT:g} seconds"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(reason).__name__
