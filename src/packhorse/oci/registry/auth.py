"""Answers a registry's challenges with credentials and tokens, and explains its refusals.

`Authorizer.flow` is a generator without sockets: `registry.client` sends each request that it yields, and
sends the answer back in. It follows RFC 9110 section 11 (challenges) and the distribution project's "Token
Authentication Specification", with identity tokens by its "OAuth2 Token Authentication". The credentials come
from `oci.auth`. `refusal_error` turns an answer that is no success into an error (distribution-spec, "Error
Codes").
"""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterable, Mapping
from typing import Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from packhorse.base.dataclass import dataclass
from packhorse.errors import FormatError, NetworkError, NotFoundError, RegistryError
from packhorse.http.client import Request, Response, host_of, origin, sanitize, split_url
from packhorse.oci.auth import ANONYMOUS_LOOKUP, SHORTEST_SECRET, Credentials, Lookup
from packhorse.oci.types import JsonNode

_ERROR_LIMIT = 64 * 1024  # bytes of an error document; some registries answer with a page of HTML


def refusal_error(
    response: Response, doing: str, *, origin: str = "", login: str = "", secrets: Iterable[str] = ()
) -> RegistryError | NotFoundError:
    """Reads and closes an answer that is no success, and makes an error of it.

    `doing` completes "could not". `origin` says which credentials were presented. `login` is the registry's
    name for `packhorse login`. The error does not show `secrets`, which the answer might repeat.
    """
    host, status = host_of(response.url), response.status
    said = _error_text(response, secrets)
    what = f"could not {doing}"
    if status == 404:
        return NotFoundError(what, why=said or f"{host} does not have it")
    if status in (401, 403):
        return RegistryError(
            what,
            why="\n".join(line for line in (f"{host} does not allow it: {said or status}", origin) if line),
            fix=f"check the name; if it is right and not public: packhorse login {login or host}",
            status=status,
        )
    if status == 429:
        wait = response.header("retry-after")
        return RegistryError(
            what,
            why=f"{host} has had too many requests: {said or status}",
            fix=f"wait{f' {wait} seconds' if wait.isdecimal() else ''}, or log in to have a higher limit",
            status=status,
        )
    fix = "try again later" if status >= 500 else ""
    if status in (405, 501):
        fix = f"check that {host} is a registry, and that it supports this"
    if status == 413:
        fix = f"configure {host}, or the proxy in front of it, to accept larger uploads"
    return RegistryError(what, why=f"{host} answered with status {status}: {said}", fix=fix, status=status)


def _error_text(response: Response, secrets: Iterable[str]) -> str:
    """Returns the messages of an error document, or the beginning of another text; "" for HTML."""
    try:
        raw = response.read(_ERROR_LIMIT)
    except NetworkError:
        return ""  # the error then has only the status
    try:
        entries = JsonNode.parse(raw, "answer").nodes("errors")
        text = "; ".join(f"{entry.text('message')} ({entry.text('code')})" for entry in entries)
    except FormatError:
        text = "" if "html" in response.header("content-type") else raw.decode(errors="replace")
    return remove_secrets(secrets, text)


def remove_secrets(secrets: Iterable[str], text: str) -> str:
    """Removes secrets and terminal control characters from a registry's text, so that it can be shown."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return sanitize(text)


Flow = Generator[Request, Response, None]
"""Yields requests and receives their answers. The last answer is the one to the original request."""

_TOKEN_LIMIT = 256 * 1024  # bytes of a token server's answer; tokens with many scopes have tens of kilobytes
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header can carry

# RFC 9110 5.6.2, 5.6.4 and 11.2, with spaces as 5.6.3 allows them.
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_NAME})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_NAME}))\s*(?:,|$)')
_SCHEME = re.compile(rf"[\s,]*({_NAME})(?:\s+|,|$)")
_TOKEN68 = re.compile(r"\s*[A-Za-z0-9._~+/-]+=*\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication scheme that a registry offers. Scheme and parameter names are in lower case."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> tuple[Self, ...]:
        """Parses a WWW-Authenticate header as far as possible; never raises."""
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
    """The credentials and tokens for one registry. Usable from several threads.

    It looks up credentials when the registry asks for them. It keeps a token for each scope until the
    registry refuses it, and ignores the lifetime that the token server states.
    """

    def __init__(self, credentials: Lookup = ANONYMOUS_LOOKUP) -> None:
        self._lookup = credentials
        self._headers: dict[str, str] = {}
        self._origins: dict[str, str] = {}
        self._secrets: dict[str, None] = {}
        self._lock = threading.Lock()

    def origin(self, scope: str) -> str:
        """Returns where the credentials for a scope come from, "" if the registry did not ask for any."""
        with self._lock:
            return self._origins.get(scope, "")

    @property
    def secrets(self) -> tuple[str, ...]:
        """The tokens and passwords that were presented. A server may repeat them in its messages."""
        with self._lock:
            return tuple(each for each in self._secrets if len(each) >= SHORTEST_SECRET)

    def flow(self, request: Request, scope: str) -> Flow:
        """Sends a request, with the kept authorization if there is one, and answers one challenge.

        `scope` has the form of the token specification: `repository:NAME:pull`. Several are separated by
        spaces.
        """
        with self._lock:
            kept = self._headers.get(scope)
        response = yield request if kept is None else request.with_header("authorization", kept)
        # After a redirect, the 401 of another server must not decide who gets the credentials.
        if response.status != 401 or origin(response.url) != origin(request.url):
            return
        credentials = self._lookup(_scope_repository(scope))
        with self._lock:
            self._origins[scope] = credentials.origin
            self._secrets |= dict.fromkeys(credentials.secrets)
        offered = {c.scheme: c for c in reversed(Challenge.parse(response.header("www-authenticate")))}
        if "bearer" in offered and not credentials.registry_token:
            response.close()
            header = yield from self._fetch_token(offered["bearer"], scope, request.url, credentials)
        else:
            header = ""
            if "bearer" in offered:
                header = f"Bearer {credentials.registry_token}"
            elif "basic" in offered:
                header = credentials.basic
            if header in ("", kept):  # the registry has just refused the same header
                return
            response.close()
        with self._lock:
            self._headers[scope] = header
            self._secrets[header.partition(" ")[2]] = None
        yield request.with_header("authorization", header)

    def _fetch_token(
        self, challenge: Challenge, scope: str, url: str, credentials: Credentials
    ) -> Generator[Request, Response, str]:
        host, realm = host_of(url), challenge.parameters.get("realm", "")
        try:
            split_url(realm)
        except ValueError as error:
            raise RegistryError(
                f"{host} asks for a token and does not say where to get it", why=sanitize(realm)
            ) from error
        service = challenge.parameters.get("service", "")
        scopes = tuple(dict.fromkeys([*scope.split(), *challenge.parameters.get("scope", "").split()]))
        if credentials.identity_token:
            request = _exchange_request(realm, service, scopes, credentials.identity_token)
        else:
            request = _token_request(realm, service, scopes, credentials.basic)
        response = yield request
        if response.status in (404, 405) and credentials.identity_token and credentials.basic:
            response.close()  # a token server that accepts passwords only
            response = yield _token_request(realm, service, scopes, credentials.basic)
        if response.status != 200:
            doing = f"get a token for {host} from {host_of(realm)}"
            raise refusal_error(response, doing, origin=credentials.origin, secrets=credentials.secrets)
        return f"Bearer {_read_token(response.read(_TOKEN_LIMIT), host)}"


def _scope_repository(scope: str) -> str:
    """Returns the first repository of a scope, "" if it has none."""
    kind, _, rest = scope.partition(" ")[0].partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def _token_request(realm: str, service: str, scopes: tuple[str, ...], basic: str) -> Request:
    """Makes the request for a token, by name and password (`basic`) or anonymous."""
    parts = urlsplit(realm)
    query = [("service", service)] if service else []
    query += [("scope", each) for each in scopes]
    full_query = "&".join(part for part in (parts.query, urlencode(query)) if part)
    request = Request("GET", urlunsplit((parts.scheme, parts.netloc, parts.path, full_query, "")))
    return request.with_header("authorization", basic) if basic else request


def _exchange_request(realm: str, service: str, scopes: tuple[str, ...], identity_token: str) -> Request:
    """Makes the request for a token, by an identity token."""
    form = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": "packhorse",
        "scope": " ".join(scopes),
        "refresh_token": identity_token,
    }
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return Request("POST", realm, headers, urlencode(form).encode())


def _read_token(raw: bytes, host: str) -> str:
    try:
        node = JsonNode.parse(raw, "token")
        token = node.text("token") or node.text("access_token")
    except FormatError as error:
        raise RegistryError(f"the token for {host} cannot be read", why=str(error)) from error
    if not _TOKEN.fullmatch(token):
        raise RegistryError(
            f"the token for {host} cannot be used", why="it is empty or no header can carry it"
        )
    return token
