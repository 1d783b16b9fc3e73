"""④ Who we are to a registry: challenges read, tokens fetched and kept, as generators without sockets.

Called by `image.registry.client`, which carries each yielded request to the network and sends the answer back
in. Follows RFC 9110 11 (challenges) and the distribution project's "Token Authentication Specification".
Where credentials come from is `image.keychain`'s.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from packhorse.base.http.message import Request, Response, host_of, origin, printable, split
from packhorse.errors import FormatError, RegistryError
from packhorse.image.registry.answer import refusal
from packhorse.image.wire import Node

Flow = Generator[Request, Response, None]
"""Yields requests and is sent the answers; the answer before it ends is the one to the original request."""

_TOKEN_LIMIT = 256 * 1024  # bytes of a token server's answer; tokens with many scopes have tens of kilobytes
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry

# RFC 9110 5.6.2, 5.6.4 and 11.2, with spaces as 5.6.3 allows them.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_NAME}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_NAME})(?:\s+|,|$)")
_TOKEN68 = re.compile(r"\s*[A-Za-z0-9._~+/-]+=*\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a keychain has for one registry."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a registry offers; scheme and parameter names are lower-case."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> tuple[Self, ...]:
        """The challenges of a WWW-Authenticate header, as far as it can be read; never raises."""
        challenges = []
        position = 0
        while match := _SCHEME.match(header, position):
            position = match.end()
            parameters: dict[str, str] = {}
            while found := _PARAMETER.match(header, position):
                name, quoted, plain = found.groups()
                parameters.setdefault(
                    name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                )
                position = found.end()
            if not parameters and (opaque := _TOKEN68.match(header, position)):
                position = opaque.end()
            challenges.append(cls(match[1].lower(), parameters))
        return tuple(challenges)


class Authorizer:
    """The credentials and tokens for one registry; usable from several threads.

    Tokens are kept by scope until the registry refuses them: their lifetime is the registry's to know.
    """

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._headers: dict[str, str] = {}
        self._lock = threading.Lock()

    def flow(self, request: Request, scope: str) -> Flow:
        """Asks without authorization or with what is kept, and answers one challenge.

        `scope` is in the form of the token specification: `repository:NAME:pull`, several with spaces
        between.
        """
        with self._lock:
            kept = self._headers.get(scope)
        response = yield request if kept is None else request.with_header("authorization", kept)
        # A 401 from where a redirect led is not this registry's, and must not choose who gets the
        # credentials.
        if response.status != 401 or origin(response.url) != origin(request.url):
            return
        offered = {c.scheme: c for c in reversed(Challenge.parse(response.header("www-authenticate")))}
        if "bearer" in offered:
            response.close()
            header = yield from self._fetch_token(offered["bearer"], scope, request.url)
        elif "basic" in offered and self._credentials and kept is None:
            response.close()
            header = self._credentials.basic
        else:
            return
        with self._lock:
            self._headers[scope] = header
        yield request.with_header("authorization", header)

    def _fetch_token(self, challenge: Challenge, scope: str, url: str) -> Generator[Request, Response, str]:
        host, told = host_of(url), challenge.parameters.get("realm", "")
        try:
            split(told)
        except ValueError as error:
            raise RegistryError(
                f"{host} asks for a token and does not say where to get it", why=printable(told)
            ) from error
        realm = urlsplit(told)
        scopes = dict.fromkeys([*scope.split(), *challenge.parameters.get("scope", "").split()])
        query = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        query += [("scope", each) for each in scopes]
        asked = "&".join(part for part in (realm.query, urlencode(query)) if part)
        request = Request("GET", urlunsplit((realm.scheme, realm.netloc, realm.path, asked, "")))
        if self._credentials:
            request = request.with_header("authorization", self._credentials.basic)
        response = yield request
        if response.status != 200:
            raise refusal(response, f"get a token for {host} from {printable(realm.netloc)}")
        return f"Bearer {_token(response.read(_TOKEN_LIMIT), host)}"


def _token(raw: bytes, host: str) -> str:
    try:
        node = Node.parse(raw, "token")
        token = node.text("token") or node.text("access_token")
    except FormatError as error:
        raise RegistryError(f"the token for {host} cannot be read", why=str(error)) from error
    if not _TOKEN.fullmatch(token):
        raise RegistryError(
            f"the token for {host} cannot be used", why="it is empty or no header can carry it"
        )
    return token
