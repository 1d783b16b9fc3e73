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
    """The error for an answer that is no success; `doing` completes "could not". Reads and closes the answer.

    `origin` says which credentials were presented, and `login` is the name to log in to the registry by.
    `secrets` are not shown, though the answer repeats them.
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
        fix = f"check that {host} is a registry, and one that takes what is asked of it"
    if status == 413:
        fix = f"have {host}, or the proxy before it, take larger uploads"
    return RegistryError(what, why=f"{host} answered with status {status}: {said}", fix=fix, status=status)


def _error_text(response: Response, secrets: Iterable[str]) -> str:
    """The messages of an error document, or the beginning of what came in its place."""
    try:
        raw = response.read(_ERROR_LIMIT)
    except NetworkError:
        return ""  # the status says the most important
    try:
        entries = JsonNode.parse(raw, "answer").nodes("errors")
        text = "; ".join(f"{entry.text('message')} ({entry.text('code')})" for entry in entries)
    except FormatError:
        text = "" if "html" in response.header("content-type") else raw.decode(errors="replace")
    return remove_secrets(secrets, text)


def remove_secrets(secrets: Iterable[str], text: str) -> str:
    """What a registry says, as it may be shown: it may repeat what it was sent, or steer a terminal."""
    for secret in secrets:
        text = text.replace(secret, "…")
    return sanitize(text)


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

    Credentials are looked up when the registry asks for some. Tokens are kept by scope until the registry
    refuses them: their lifetime is the registry's to know.
    """

    def __init__(self, credentials: Lookup = ANONYMOUS_LOOKUP) -> None:
        self._lookup = credentials
        self._headers: dict[str, str] = {}
        self._origins: dict[str, str] = {}
        self._secrets: dict[str, None] = {}
        self._lock = threading.Lock()

    def origin(self, scope: str) -> str:
        """Where the credentials come from that were presented for a scope, "" while none were asked for."""
        with self._lock:
            return self._origins.get(scope, "")

    @property
    def secrets(self) -> tuple[str, ...]:
        """What was presented, tokens and passwords; a server may repeat it in what it says."""
        with self._lock:
            return tuple(each for each in self._secrets if len(each) >= SHORTEST_SECRET)

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
            if header in ("", kept):  # what was just refused is not sent again
                return
            response.close()
        with self._lock:
            self._headers[scope] = header
            self._secrets[header.partition(" ")[2]] = None
        yield request.with_header("authorization", header)

    def _fetch_token(
        self, challenge: Challenge, scope: str, url: str, credentials: Credentials
    ) -> Generator[Request, Response, str]:
        host, told = host_of(url), challenge.parameters.get("realm", "")
        try:
            split_url(told)
        except ValueError as error:
            raise RegistryError(
                f"{host} asks for a token and does not say where to get it", why=sanitize(told)
            ) from error
        service = challenge.parameters.get("service", "")
        scopes = tuple(dict.fromkeys([*scope.split(), *challenge.parameters.get("scope", "").split()]))
        if credentials.identity_token:
            request = _exchange_request(told, service, scopes, credentials.identity_token)
        else:
            request = _token_request(told, service, scopes, credentials.basic)
        response = yield request
        if response.status in (404, 405) and credentials.identity_token and credentials.basic:
            response.close()  # a token server that knows passwords alone
            response = yield _token_request(told, service, scopes, credentials.basic)
        if response.status != 200:
            doing = f"get a token for {host} from {host_of(told)}"
            raise refusal_error(response, doing, origin=credentials.origin, secrets=credentials.secrets)
        return f"Bearer {_read_token(response.read(_TOKEN_LIMIT), host)}"


def _scope_repository(scope: str) -> str:
    """The repository that a scope is about first, "" when it is about none."""
    kind, _, rest = scope.partition(" ")[0].partition(":")
    return rest.rpartition(":")[0] if kind == "repository" else ""


def _token_request(told: str, service: str, scopes: tuple[str, ...], basic: str) -> Request:
    """The question for a token with a password, or with nothing."""
    realm = urlsplit(told)
    query = [("service", service)] if service else []
    query += [("scope", each) for each in scopes]
    asked = "&".join(part for part in (realm.query, urlencode(query)) if part)
    request = Request("GET", urlunsplit((realm.scheme, realm.netloc, realm.path, asked, "")))
    return request.with_header("authorization", basic) if basic else request


def _exchange_request(told: str, service: str, scopes: tuple[str, ...], identity_token: str) -> Request:
    """The question for a token with an identity token."""
    form = {
        "grant_type": "refresh_token",
        "service": service,
        "client_id": "packhorse",
        "scope": " ".join(scopes),
        "refresh_token": identity_token,
    }
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return Request("POST", told, headers, urlencode(form).encode())


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
